"""`compress-model export`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.early import check_container
from bitstack.commands.shared import (
    Budget,
    Container,
    Json,
    Level,
    Quiet,
    silence_libraries,
    write_result,
)
from bitstack.machine.new_folder import check_new_folder


def export(
    folder: Container,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="New folder to write the dense model into.")
    ],
    budget: Budget = None,
    level: Level = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Write a container as a plain Hugging Face model folder.

    For tools that cannot read containers (vLLM, llama.cpp, MLX). The weights are those of the
    budget, written out as 16 or 32 bits each: the folder is as large as the original model.

    Example: compress-model export out/small --budget 3bpw --output out/dense
    """
    check_new_folder(output)
    check_container(folder, budgets=[budget], level=level)
    silence_libraries(also_bitstack=quiet)
    from bitstack.live.dense_export import export
    from bitstack.machine.sizes import format_bytes

    written = export(folder, output, budget, level=level, progress=not quiet)
    size = sum(file.stat().st_size for file in written.glob("*.safetensors"))
    if not quiet and json != "-":
        typer.echo(f"{written}: {format_bytes(size)} of dense weights")
    chosen = {"budget": budget, "level": level}
    write_result(json, {"folder": str(written), **chosen, "dense_bytes": size})
