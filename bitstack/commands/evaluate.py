"""`compress-model eval`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitstack.commands.shared import (
    Budget,
    Device,
    Json,
    Limit,
    Model,
    Quiet,
    Tasks,
    TasksFolder,
    silence,
    split,
    write_result,
)
from bitstack.machine.workers import is_first


def evaluate(
    model: Model,
    text: Annotated[
        str | None,
        typer.Option(help="Text file, folder, FILE.jsonl or hf:DATASET[:CONFIG][:COLUMN]."),
    ] = None,
    budget: Budget = None,
    level: Annotated[
        int | None, typer.Option(metavar="J", help="Every stack at this level instead.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window [default: the model's, 2048 at most].")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens between windows [default: the window].")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Use only the first tokens.")] = None,
    tasks: Tasks = None,
    tasks_folder: TasksFolder = None,
    limit: Limit = None,
    original: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Compare task scores with this model's.")
    ] = None,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure perplexity and bits per byte on a text, scores on benchmark tasks, or both."""
    silence(own=quiet)
    from bitstack.commands.tables import console, evaluation_lines, task_table
    from bitstack.errors import UserError
    from bitstack.metrics.loss.evaluation import evaluate

    if text is None and tasks is None:
        raise UserError("give --text FILE, --tasks NAME,NAME or both: what to measure on")
    shown, record = is_first() and json != "-" and not quiet, dict[str, Any]()
    if text is not None:
        found = evaluate(
            model, text, budget=budget, level=level, window=window, stride=stride,
            max_tokens=max_tokens, device=device, progress=not quiet, shared=True,
        )  # fmt: skip
        record |= found.to_json()
        if shown:
            typer.echo("\n".join(evaluation_lines(found)))
    if tasks is not None and is_first():  # the others have only the text to share
        from bitstack.metrics.tasks.evaluation import evaluate_tasks

        scored = evaluate_tasks(
            model, split(tasks) or [], tasks_folder, original=original, budget=budget, level=level,
            limit=limit, device=device, progress=not quiet,
        )  # fmt: skip
        record |= scored.to_json()
        if shown:
            console().print(task_table(scored))
    if is_first():
        write_result(json, record)
