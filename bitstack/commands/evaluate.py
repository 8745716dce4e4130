"""`compress-model eval`."""

from typing import Annotated

import typer

from bitstack.commands.shared import Budget, Device, Json, Model, Quiet, Text, silence


def evaluate(
    model: Model,
    text: Text,
    budget: Budget = None,
    level: Annotated[
        int | None, typer.Option(metavar="J", help="Every stack at this level instead.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window [default: the model's, 2048 at most].")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens between windows [default: the window].")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Use only the first tokens.")] = None,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure perplexity and bits per byte on a text."""
    silence(own=quiet)
    from bitstack.evaluate import evaluate
    from bitstack.json_file import write_json
    from bitstack.tables import evaluation_lines

    found = evaluate(
        model, text, budget=budget, level=level, window=window, stride=stride,
        max_tokens=max_tokens, device=device, progress=not quiet,
    )  # fmt: skip
    if json != "-" and not quiet:
        typer.echo("\n".join(evaluation_lines(found)))
    if json:
        write_json(json, found.to_json())
