"""`compress-model metric scores`: task scores of budgets whose tasks are not run."""

from typing import Annotated

import typer

from bitstack.commands.early import check_container, check_inputs
from bitstack.commands.numbers import size
from bitstack.commands.shared import (
    Budgets,
    Container,
    Device,
    Json,
    Limit,
    Original,
    Quiet,
    Seed,
    TasksFolder,
    Text,
    show_result,
    silence_libraries,
    split_names,
)
from bitstack.errors import UserError


def scores(
    folder: Container,
    text: Text,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="Tasks to predict, separated by commas. Their questions must have choices: blimp, "
            "hellaswag, piqa, arc_easy, arc_challenge, or task files of your own.",
        ),
    ],
    original: Original = None,
    budget: Budgets = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="B",
            help="Budget at which the tasks run, beside the original. Repeat the option; two are "
            "enough, of which one is smaller than every --budget [default: floor and 2bpw].",
        ),
    ] = None,
    tasks_folder: TasksFolder = None,
    limit: Limit = None,
    max_bytes: Annotated[
        int,
        typer.Option(
            metavar="BYTES",
            parser=size,
            help="Measure the KL divergence on about the first BYTES of the text.",
        ),
    ] = 20_000,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Predict task scores without running the tasks.

    The tasks run with the original and at the budgets of --measure. At each --budget (2.5bpw, 3bpw
    and 4bpw if none is given) only the KL divergence from the original is measured, on the text,
    which is much quicker.

    Example: compress-model metric scores out --original M --text T --tasks piqa
    """
    if original is None:
        raise UserError(
            "--original is missing: predictions start from the scores of the model that the "
            "container was made from; give its folder or its name on the Hub"
        )
    check_container(folder, budgets=[*(budget or []), *(measure or [])])
    check_inputs(original, texts=[text], tasks=split_names(tasks), tasks_folder=tasks_folder)
    silence_libraries(also_bitstack=quiet)
    from bitstack.commands.score_lines import score_lines
    from bitstack.metrics.gap.predicted_scores import MEASURED, PREDICTED, predict_scores

    predicted = predict_scores(
        folder, split_names(tasks) or [], tasks_folder, text, original=original,
        budgets=budget or PREDICTED, measured=measure or MEASURED, limit=limit, max_bytes=max_bytes,
        device=device, seed=seed, progress=not quiet,
    )  # fmt: skip
    show_result(score_lines(predicted), predicted.to_json(), json, quiet)
