"""Measures the loss of a model on a text and gives it as one record with the model's size.

Containers at a budget or level and original models are measured in the same way. Does not define
windows and sums; see `metrics.loss.perplexity`.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitstack.container.budget import Budget
from bitstack.errors import UserError
from bitstack.live.opening import Opened, open_model
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.model_limits import check_ids
from bitstack.original.text import Tokens, token_ids


@dataclass(frozen=True)
class Evaluation:
    """The record of `compress-model eval --text`."""

    model: str  # folder or Hub name, as given
    budget_bytes: int | None  # None: no budget was given
    level: int | None  # None: no level was given
    resident_bytes: int  # of the whole model
    original_bytes: int
    bits_per_weight: float  # of a decomposed weight
    tokens: int  # scored
    window: int  # tokens
    stride: int  # tokens
    nll_per_token: float  # nats
    perplexity: float | None  # None: larger than a 64-bit float holds
    bits_per_byte: float
    text: str  # the source, as given
    text_sha256: str
    dtype: str  # of the activations
    device: str
    first_token: int | None = None  # id that every window begins with, where the tokenizer has one

    def to_json(self) -> dict[str, Any]:
        """Returns all fields; every number is finite."""
        return asdict(self)


def evaluate(
    path: str | Path,
    text: str | Path,
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
    """Measures perplexity and bits per byte of a container or an original model on a text.

    Perplexities compare only with the same text, tokens, window and stride; bits per byte compare
    across tokenizers too.

    Args:
        path: Folder of a container or of an original model, or `owner/name` on the Hub.
        text: A text file, a folder of text files, FILE.jsonl, or hf:DATASET[:CONFIG][:COLUMN].
        budget: Budget of a container, as in `bitstack.load`; None loads all blocks.
        level: Every matrix at this level (number of planes, from 1) instead of a budget.
        window: Tokens of a forward pass; None for the model's positions, at most 2048.
        stride: Tokens from the start of one window to the next; None for `window`.
        max_tokens: Use only the first tokens of the text; None uses all.
        device: "auto", "cpu" or "cuda".
        progress: Show a progress bar.
        shared: Share the text with the other processes of `torchrun` or `accelerate launch`.

    Returns:
        Loss, perplexity and bits per byte, with the sizes of the model and all settings.

    Raises:
        UserError: The model cannot be loaded, the text cannot be read, a setting is out of range,
            the tokenizer and the model do not belong together, or the loss is no number.

    Example:
        >>> import bitstack
        >>> original = bitstack.evaluate("my-model", "text.txt", window=64)
        >>> packed = bitstack.evaluate("my-container", "text.txt", budget="50%", window=64)
        >>> packed.resident_bytes <= original.resident_bytes / 2
        True
    """
    text = str(text)
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
    """Measures a model that is already loaded on a text that is already encoded.

    Args:
        opened: The loaded model.
        tokens: The text, encoded by the model's tokenizer.
        model: Name of the model in the record and in errors.
        text: Name of the text in the record and in errors.
        level: The level that was loaded, for the record; None for a budget.
        window: Tokens of a forward pass; None for the model's positions, at most 2048.
        stride: Tokens from the start of one window to the next; None for `window`.
        progress: Show a progress bar.
        shared: Share the text with the other processes of `torchrun` or `accelerate launch`.

    Raises:
        UserError: as in `perplexity`, the tokenizer and the model do not belong together, or the
            loss is no number.
    """
    check_ids(opened.model, int(tokens.ids.max()) if len(tokens.ids) else 0, model)
    measured = perplexity(
        opened.model, tokens, window=window, stride=stride, progress=progress, shared=shared
    )
    if not math.isfinite(measured.nll_per_token):
        raise UserError(
            f"{model}: its loss on {text} is {measured.nll_per_token}, no number; its weights are "
            "broken: download or compress the model again"
        )
    return Evaluation(
        model=model,
        budget_bytes=opened.budget_bytes,
        level=level,
        resident_bytes=opened.resident_bytes,
        original_bytes=opened.original_bytes,
        bits_per_weight=opened.bits_per_weight,
        tokens=measured.tokens,
        window=measured.window,
        stride=measured.stride,
        nll_per_token=measured.nll_per_token,
        perplexity=measured.perplexity if math.isfinite(measured.perplexity) else None,
        bits_per_byte=measured.bits_per_byte,
        text=text,
        text_sha256=tokens.sha256,
        dtype=str(opened.model.dtype).removeprefix("torch."),
        device=opened.model.device.type,
        first_token=measured.first_token,
    )
