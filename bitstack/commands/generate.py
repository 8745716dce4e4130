"""`compress-model generate`."""

from typing import Annotated

import typer

from bitstack.commands.early import check_inputs
from bitstack.commands.shared import (
    Budget,
    Device,
    DrawSeed,
    Json,
    MaxNewTokens,
    Model,
    Quiet,
    Temperature,
    silence_libraries,
    write_result,
)


def generate(
    model: Model,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help='Text to continue, for example "The river".')
    ],
    budget: Budget = None,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.0,
    seed: DrawSeed = 0,
    draft_budget: Annotated[
        str | None,
        typer.Option(
            metavar="B",
            help="Let the same container at this smaller budget draft tokens that the whole model "
            "then checks (speculative decoding), for example 2bpw; at temperature 0 the text stays "
            "the same.",
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Send the prompt as a user's message, in the model's chat template."
        ),
    ] = False,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Continue a prompt and print the text as it comes.

    Example: compress-model generate out/small --budget 50% --prompt "The river"
    """
    check_inputs(model, budgets=[budget, draft_budget])
    silence_libraries(also_bitstack=quiet)
    from transformers import TextStreamer

    from bitstack.live.generation import generate
    from bitstack.live.opening import open_model

    opened = open_model(model, budget=budget, device=device)
    streamer = None
    if not quiet and json != "-":
        streamer = TextStreamer(opened.tokenizer, skip_prompt=chat, skip_special_tokens=True)
    text = generate(
        opened, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        chat=chat, streamer=streamer, draft_budget=draft_budget,
    )  # fmt: skip
    if not text.strip() and not quiet:
        chats = opened.tokenizer.chat_template and not chat
        hint = ": it is a chat model, try --chat" if chats else ""
        typer.echo(f"the model ended the text at once{hint}", err=True)
    sizes = {"resident_bytes": opened.resident_bytes, "bits_per_weight": opened.bits_per_weight}
    write_result(json, {"model": str(model), "prompt": prompt, "continuation": text, **sizes})
