"""`compress-model export`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import Budget, Container, Json, Quiet, silence, write_result


def export(
    folder: Container,
    output: Annotated[Path, typer.Option(help="New folder for the dense model.")],
    budget: Budget = None,
    level: Annotated[
        int | None, typer.Option(metavar="J", help="Every stack at this level instead.")
    ] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Write a dense Hugging Face folder, for tools that know no containers."""
    silence(own=quiet)
    from bitstack.live.dense_export import export
    from bitstack.machine.sizes import format_bytes

    written = export(folder, output, budget, level=level, progress=not quiet)
    size = sum(file.stat().st_size for file in written.glob("*.safetensors"))
    if not quiet and json != "-":
        typer.echo(f"{written}: {format_bytes(size)} of dense weights")
    asked = {"budget": budget, "level": level}
    write_result(json, {"folder": str(written), **asked, "dense_bytes": size})
