"""`compress-model demo`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import Json, Quiet, silence_libraries, write_result


def demo(
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder to write the container, the table as demo.json and the plot into; an "
            "earlier demonstration there is replaced.",
        ),
    ] = Path("out/demo"),
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Compress the small model that is shipped, and compare budgets.

    Loads the container at five memory budgets and prints size, perplexity and speed of each beside
    the original's, measured on this machine. Takes some minutes and needs no network.

    Example: compress-model demo --output out/demo
    """
    silence_libraries(also_bitstack=quiet)
    from dataclasses import asdict

    from bitstack.commands.tables import console, print_demo
    from bitstack.demo import run_demo

    result = run_demo(output, progress=not quiet)
    if not quiet and json != "-":
        print_demo(console(), result)
    write_result(json, {"rows": [asdict(row) for row in result.rows]})
