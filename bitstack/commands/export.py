"""`compress-model export`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import Budget, Container, Quiet, silence


def export(
    folder: Container,
    output: Annotated[Path, typer.Option(help="New folder for the dense model.")],
    budget: Budget = None,
    level: Annotated[
        int | None, typer.Option(metavar="J", help="Every stack at this level instead.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a dense Hugging Face folder, for tools that know no containers."""
    silence(own=quiet)
    from bitstack.budget import format_bytes
    from bitstack.export import export

    written = export(folder, output, budget, level=level, progress=not quiet)
    if not quiet:
        size = sum(file.stat().st_size for file in written.glob("*.safetensors"))
        typer.echo(f"{written}: {format_bytes(size)} of dense weights")
