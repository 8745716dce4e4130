"""`compress-model report`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import (
    Budgets,
    Container,
    Device,
    Limit,
    Quiet,
    Tasks,
    TasksFolder,
    silence,
    split,
)


def report(
    folder: Container,
    output: Annotated[
        Path, typer.Option(metavar="FILE.html", help="The page; .md and .json go beside it.")
    ] = Path("report.html"),
    text: Annotated[
        str | None,
        typer.Option(
            help="Held-out text to measure on, named as for eval [default: no measuring]."
        ),
    ] = None,
    budget: Budgets = None,
    original: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="Model it was made from [default: a folder of its name, if any]."
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Use only the first tokens of the text.")
    ] = 20_000,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window [default: the model's, 2048 at most].")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens between windows [default: the window].")
    ] = None,
    tasks: Tasks = None,
    tasks_folder: TasksFolder = None,
    limit: Limit = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Write a page about a container: quality over memory, levels, how it was made."""
    silence()
    from bitstack.metrics.report import collect, output_files, write_report

    output_files(output)  # what is wrong with the name is said before hours of measuring
    found = collect(
        folder, text=text, budgets=budget or (), original=original, max_tokens=max_tokens,
        window=window, stride=stride, tasks=split(tasks), tasks_folder=tasks_folder, limit=limit,
        device=device, progress=not quiet,
    )  # fmt: skip
    for file in write_report(found, output):
        if not quiet:
            typer.echo(f"wrote {file}")
