"""The quality of a model over a text, with its size beside it: one record a measurement.

For a container at a budget or level, and for the original it was made from, measured alike. How a
perplexity is computed is the business of `bitstack.metrics.perplexity`.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitstack.container.budget import Budget
from bitstack.errors import UserError
from bitstack.live.opening import Opened, open_model
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.text import Tokens, token_ids


@dataclass(frozen=True)
class Evaluation:
    """What `compress-model eval` writes."""

    model: str  # as named
    budget_bytes: int | None  # None: none was asked for
    level: int | None  # None: none was asked for
    resident_bytes: int
    original_bytes: int
    bits_per_weight: float
    tokens: int  # scored
    window: int  # tokens
    stride: int  # tokens
    nll_per_token: float  # nats
    perplexity: float | None  # None: too large for a number
    bits_per_byte: float
    text: str
    text_sha256: str
    dtype: str  # of the activations
    device: str

    def to_json(self) -> dict[str, Any]:
        """All fields; every number is finite."""
        return asdict(self)


def evaluate(
    path: str | Path,
    text: str,
    *,
    budget: str | int | Budget | None = None,
    level: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    device: str = "auto",
    progress: bool = False,
    shared: bool = False,
) -> Evaluation:
    """Perplexity and bits per byte of a container or an original model over the source `text`.

    With `shared` the processes of `accelerate launch` or `torchrun` take a part of it each.
    UserError for everything `open_model`, `token_ids` and `perplexity` refuse, and for a model
    whose outputs are no numbers.
    """
    opened = open_model(path, budget=budget, level=level, device=device)
    tokens = token_ids(text, opened.tokenizer, max_tokens=max_tokens)
    return score(
        opened, tokens, model=str(path), text=text, level=level,
        window=window, stride=stride, progress=progress, shared=shared,
    )  # fmt: skip


def score(
    opened: Opened,
    tokens: Tokens,
    *,
    model: str,
    text: str,
    level: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    progress: bool = False,
    shared: bool = False,
) -> Evaluation:
    """The record of a model that is open already, over a text that is token ids already."""
    check_ids(opened, tokens, model)
    found = perplexity(
        opened.model, tokens, window=window, stride=stride, progress=progress, shared=shared
    )
    if not math.isfinite(found.nll_per_token):
        raise UserError(
            f"{model}: its loss on {text} is {found.nll_per_token}, no number; its weights are "
            "broken: download or compress the model again"
        )
    return Evaluation(
        model=model,
        budget_bytes=opened.budget_bytes,
        level=level,
        resident_bytes=opened.resident_bytes,
        original_bytes=opened.original_bytes,
        bits_per_weight=opened.bits_per_weight,
        tokens=found.tokens,
        window=found.window,
        stride=found.stride,
        nll_per_token=found.nll_per_token,
        perplexity=found.perplexity if math.isfinite(found.perplexity) else None,
        bits_per_byte=found.bits_per_byte,
        text=text,
        text_sha256=tokens.sha256,
        dtype=str(opened.model.dtype).removeprefix("torch."),
        device=opened.model.device.type,
    )


def check_ids(opened: Opened, tokens: Tokens, model: str) -> None:
    """UserError where the tokenizer gives ids that the model has no embedding for."""
    vocabulary = opened.model.get_input_embeddings().num_embeddings
    if len(tokens.ids) and int(tokens.ids.max()) >= vocabulary:
        raise UserError(
            f"{model}: the tokenizer gives id {int(tokens.ids.max())}, but the model has "
            f"{vocabulary} embeddings: tokenizer and model do not belong together"
        )
