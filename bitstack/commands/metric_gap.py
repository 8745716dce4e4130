"""`compress-model metric gap`: a student against its teacher, and which teacher suits a student."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import (
    STYLE,
    Budget,
    Device,
    Json,
    MaxBytes,
    Quiet,
    Seed,
    Text,
    answer,
    silence,
)

app = typer.Typer(
    help="A student against its teacher; which teacher suits it.", no_args_is_help=True, **STYLE
)


@app.command("measure")
def measure(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Model or container.")],
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="Model or container.")],
    text: Text,
    budget: Budget = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window [default: the models', 1024 at most].")
    ] = None,
    max_bytes: MaxBytes = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """KL, loss gap and top-1 agreement, by position and by frequency."""
    silence(own=quiet)
    from bitstack.commands.metric_lines import gap_lines
    from bitstack.metrics.gap.measured import measure_gap

    found = measure_gap(
        teacher, student, text, budget=budget, window=window, max_bytes=max_bytes,
        device=device, seed=seed, progress=not quiet,
    )  # fmt: skip
    answer(gap_lines(found), found.to_json(), json, quiet)


@app.command("teacher")
def teacher(
    student: Annotated[float, typer.Option(metavar="N", help="Parameters, as 350e6.")],
    tokens: Annotated[
        float | None, typer.Option(metavar="D", help="It is trained on, as 20e9; for scratch.")
    ] = None,
    law: Annotated[
        str, typer.Option(metavar="[pruned|scratch]", help="How the student begins.")
    ] = "pruned",
    json: Json = None,
) -> None:
    """The best teacher of a student, by a published law."""
    silence()
    from dataclasses import asdict

    from bitstack.commands.metric_lines import teacher_lines
    from bitstack.metrics.gap.law import best_teacher

    found = best_teacher(student, tokens=tokens, law=law)
    answer(teacher_lines(found), asdict(found), json)


@app.command("fit")
def fit(
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="CSV or JSON rows of student, teacher, loss."),
    ],
    json: Json = None,
) -> None:
    """The line from student size to best teacher, on your own runs."""
    silence()
    from dataclasses import asdict

    from bitstack.commands.metric_lines import gap_fit_lines
    from bitstack.metrics.gap.fit import fit_gap, read_runs

    found = fit_gap(read_runs(table))
    answer(gap_fit_lines(found), asdict(found), json)
