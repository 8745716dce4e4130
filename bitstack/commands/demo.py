"""`compress-model demo`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import silence


def demo(
    output: Annotated[Path, typer.Option(help="Folder for container, table and plot.")] = Path(
        "out/demo"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Compress the embedded model and compare it at five budgets, offline."""
    silence()
    from bitstack.demo import run_demo
    from bitstack.tables import console, print_demo

    print_demo(console(), run_demo(output, progress=not quiet))
