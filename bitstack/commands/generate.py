"""`compress-model generate`."""

from typing import Annotated

import typer

from bitstack.commands.shared import Budget, Device, Model, silence


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    budget: Budget = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to add.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    draft_budget: Annotated[
        str | None, typer.Option(metavar="B", help="Draft with fewer blocks: the same greedy text.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Continue a prompt, printed as it comes."""
    silence()
    from bitstack.generate import generate
    from bitstack.opening import open_model

    opened = open_model(model, budget=budget, device=device)
    generate(
        opened, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        stream=True, draft_budget=draft_budget,
    )  # fmt: skip
