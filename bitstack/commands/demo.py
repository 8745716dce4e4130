"""`compress-model demo`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import Json, Quiet, silence, write_result


def demo(
    output: Annotated[Path, typer.Option(help="Folder for container, table and plot.")] = Path(
        "out/demo"
    ),
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Compress the embedded model and compare it at five budgets, offline."""
    silence(own=quiet)
    from dataclasses import asdict

    from bitstack.commands.tables import console, print_demo
    from bitstack.demo import run_demo

    found = run_demo(output, progress=not quiet)
    if not quiet and json != "-":
        print_demo(console(), found)
    write_result(json, {"rows": [asdict(row) for row in found.rows]})
