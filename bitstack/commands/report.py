"""`compress-model report`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitstack.commands.early import check_container, check_inputs
from bitstack.commands.shared import (
    Budgets,
    Device,
    Json,
    Limit,
    MaxTokens,
    Original,
    Quiet,
    Stride,
    Tasks,
    TasksFolder,
    TextOrNone,
    Window,
    silence_libraries,
    split_names,
    writable,
    write_result,
)


def report(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|NAME|FILE.json...",
            help="Container that `run` wrote: its folder, or its name on the Hub (owner/name). "
            "The page compares several, or the .json of earlier reports.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="FILE.html",
            callback=writable("--output"),
            help="Web page to write; the same as .md and .json is written beside it.",
        ),
    ] = Path("report.html"),
    text: TextOrNone = None,
    budget: Budgets = None,
    original: Original = None,
    max_tokens: MaxTokens = 6000,
    window: Window = None,
    stride: Stride = None,
    no_metrics: Annotated[
        bool,
        typer.Option(
            "--no-metrics",
            help="Measure loss and speed only, not information capacity, density and gap, which "
            "take most of the time.",
        ),
    ] = False,
    tasks: Tasks = None,
    tasks_folder: TasksFolder = None,
    limit: Limit = None,
    tasks_budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="B",
            help="Run the tasks at this budget and on the original, not at all budgets; repeat the "
            "option for a second one. Scores of the other budgets are predicted, which takes no "
            "time; two are better than one, for example floor and 3bpw.",
        ),
    ] = None,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Write a web page about a container, or one that compares several.

    Without --text and --tasks nothing is measured: the page shows the sizes and levels of the
    budgets, and how the container was made. Use a text that the container was not calibrated on.
    Without --original, a folder of the original's name and size is looked for beside the container.

    Example: compress-model report out/small --text book.txt --output page.html
    """
    earlier = [name for name in folders if name.endswith(".json")]
    for folder in folders:
        if folder not in earlier:
            check_container(folder, budgets=budget or ())
    check_inputs(
        texts=[text], files=map(Path, earlier), tasks=split_names(tasks), tasks_folder=tasks_folder
    )
    silence_libraries(also_bitstack=quiet)
    from bitstack.metrics import report as reports

    reports.output_files(output)  # a wrong name is refused before hours of measuring
    options: dict[str, Any] = {
        "text": text, "budgets": budget or (), "original": original, "max_tokens": max_tokens,
        "window": window, "stride": stride, "tasks": split_names(tasks), "limit": limit,
        "tasks_folder": tasks_folder, "tasks_budgets": tasks_budget or (),
        "metrics": not no_metrics, "device": device, "progress": not quiet,
    }  # fmt: skip
    made: Any
    if len(folders) == 1 and not earlier:
        made = reports.collect(folders[0], **options)
        files = reports.write_report(made, output)
    else:
        made = reports.compare(folders, **options)
        files = reports.write_comparison(made, output)
    for file in files:
        if not quiet and json != "-":
            typer.echo(f"wrote {file}")
    if json:
        write_result(json, made.to_json())
