"""`compress-model eval`."""

from typing import Any

import typer

from bitstack.commands.early import check_inputs
from bitstack.commands.shared import (
    Budget,
    Device,
    Json,
    Level,
    Limit,
    MaxTokens,
    Model,
    Original,
    Quiet,
    Stride,
    Tasks,
    TasksFolder,
    TextOrNone,
    Window,
    silence_libraries,
    split_names,
    write_result,
)
from bitstack.errors import UserError
from bitstack.machine.extras import require
from bitstack.machine.workers import is_first


def evaluate(
    model: Model,
    text: TextOrNone = None,
    budget: Budget = None,
    level: Level = None,
    window: Window = None,
    stride: Stride = None,
    max_tokens: MaxTokens = None,
    tasks: Tasks = None,
    tasks_folder: TasksFolder = None,
    limit: Limit = None,
    original: Original = None,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure perplexity on a text, scores on tasks, or both.

    Give --text, --tasks or both. With --original the task scores of that model stand beside, with
    the share of them that the container keeps.

    Example: compress-model eval out/small --text book.txt --budget 2.5bpw
    """
    if text is None and tasks is None:
        raise UserError("give --text FILE, --tasks NAME,NAME or both: what to measure on")
    if original is not None and tasks is None:
        raise UserError(f"--original {original}: its task scores are compared; give --tasks A,B")
    if tasks is not None:
        require("lm_eval")  # said before the text is measured
    check_inputs(model, budgets=[budget], level=level, texts=[text])
    check_inputs(tasks=split_names(tasks), tasks_folder=tasks_folder)
    if original is not None:
        check_inputs(original)
    silence_libraries(also_bitstack=quiet)
    from bitstack.commands.tables import console, evaluation_lines, task_table
    from bitstack.metrics.loss.evaluation import evaluate

    prints, record = is_first() and json != "-" and not quiet, dict[str, Any]()
    if text is not None:
        evaluation = evaluate(
            model, text, budget=budget, level=level, window=window, stride=stride,
            max_tokens=max_tokens, device=device, progress=not quiet, shared=True,
        )  # fmt: skip
        record |= evaluation.to_json()
        if prints:
            typer.echo("\n".join(evaluation_lines(evaluation)))
    if tasks is not None and is_first():  # the other processes share only the text
        from bitstack.metrics.tasks.evaluation import evaluate_tasks

        scores = evaluate_tasks(
            model, split_names(tasks) or [], tasks_folder, original=original, budget=budget,
            level=level, limit=limit, device=device, progress=not quiet,
        )  # fmt: skip
        record |= scores.to_json()
        if prints:
            console().print(task_table(scores))
    if is_first():
        write_result(json, record)
