"""`compress-model generate`."""

from typing import Annotated

import typer

from bitstack.commands.shared import Budget, Device, Json, Model, Quiet, silence, write_result


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
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Continue a prompt, printed as it comes."""
    silence(own=quiet)
    from transformers import TextStreamer

    from bitstack.live.generation import generate
    from bitstack.live.opening import open_model

    opened = open_model(model, budget=budget, device=device)
    streamer = None
    if not quiet and json != "-":
        streamer = TextStreamer(opened.tokenizer, skip_special_tokens=True)
    text = generate(
        opened, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        streamer=streamer, draft_budget=draft_budget,
    )  # fmt: skip
    sizes = {"resident_bytes": opened.resident_bytes, "bits_per_weight": opened.bits_per_weight}
    write_result(json, {"model": str(model), "prompt": prompt, "continuation": text, **sizes})
