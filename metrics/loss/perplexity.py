"""Perplexity of a causal language model over a text, and bits per byte beside it.

A perplexity means nothing without its text, tokens, window and stride, so the result carries
them. Works on any module that maps token ids to an object with `.logits`, packed models too.
Reading and tokenising the text is left to `bitstack.text`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from bitstack.errors import UserError
from bitstack.machine.gathering import gathered, meet
from bitstack.machine.workers import processes
from bitstack.original.text import Tokens

DEFAULT_WINDOW = 2048  # tokens, the window of the BitStack, GPTQ and AWQ papers
SOFTMAX_ELEMENTS = 2**24  # logits turned to fp32 at a time: 64 MiB


@dataclass(frozen=True)
class Perplexity:
    """Mean negative log-likelihood of a text, and how it was measured."""

    tokens: int  # scored
    window: int  # tokens a forward pass sees
    stride: int  # tokens from the start of one window to the next
    nll_per_token: float  # nats
    perplexity: float  # exp(nll_per_token)
    bits_per_byte: float


def perplexity(
    model: nn.Module,
    tokens: Tokens,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
    shared: bool = False,
) -> Perplexity:
    """Score every token of the text once, each in the first window that holds it.

    Windows start at 0, stride, 2·stride … until one reaches the end. In each, the tokens that
    were in no earlier window are scored; the first token of a window has no context and is never
    scored. So with `stride == window` (the default) one token a window is left out, with a
    smaller stride only the first of the text, and no token has fewer than `window - stride` of
    context. The last window may be shorter; it is never padded. The result does not depend on
    `batch_size`: fp32 per token, summed in fp64. `window` defaults to the model's positions, at
    most 2048.

    Bits per byte, `nll_per_token / ln 2 · ids / bytes`, takes ids and bytes (UTF-8) from the
    whole evaluated text, so it compares across tokenizers.

    With `shared` the processes of `accelerate launch` or `torchrun` take a part each, and all get
    the result: to the bit the one of a single process with as many threads.
    Raises UserError for a window or stride that cannot be, for a text of fewer than 2 tokens, and
    for processes that cannot meet.
    """
    window, stride = _checked(model, window, stride)
    if len(tokens.ids) < 2 or tokens.bytes == 0:
        raise UserError(
            f"text too short: {len(tokens.ids)} tokens of {tokens.bytes} bytes found, at least 2 "
            "tokens and 1 byte needed; give more text"
        )
    found: list[tuple[int, float, int]] = []  # batch, nats, tokens
    rank, count = processes() if shared else (0, 1)
    if shared:
        meet()  # what hinders them is said before the work, not after it
    batches = list(_batches(len(tokens.ids), window, stride, batch_size))
    was_training = model.training
    model.eval()
    try:
        own = list(enumerate(batches))[rank::count]
        for batch, (starts, length, fresh) in tqdm(
            own, desc="perplexity", unit="batch", disable=None if progress and not rank else True
        ):
            losses = _losses(model, _gather(tokens.ids, starts, length), fresh)
            found.append((batch, float(losses.double().sum()), len(losses)))
    finally:
        model.train(was_training)
    # Added in the order of the text, so that the sum does not depend on who computed what.
    found = sorted(gathered(found) if shared else found)
    scored = sum(size for _, _, size in found)
    nll = sum(nats for _, nats, _ in found) / scored
    return Perplexity(
        tokens=scored,
        window=window,
        stride=stride,
        nll_per_token=nll,
        perplexity=torch.tensor(nll, dtype=torch.float64).exp().item(),  # inf, no OverflowError
        bits_per_byte=nll / math.log(2) * len(tokens.ids) / tokens.bytes,
    )


def _checked(model: nn.Module, window: int | None, stride: int | None) -> tuple[int, int]:
    positions = _positions(model)
    if window is None:
        window = DEFAULT_WINDOW if positions is None else min(positions, DEFAULT_WINDOW)
    if window < 2 or (positions is not None and window > positions):
        most = "" if positions is None else f", at most {positions}, the positions of the model"
        raise UserError(f"window is {window} tokens; it must be at least 2{most}")
    stride = window if stride is None else stride
    if not 1 <= stride <= window:
        raise UserError(f"stride is {stride} tokens; it must be from 1 to the window, {window}")
    return window, stride


def _positions(model: nn.Module) -> int | None:
    """The most tokens the model takes, None if it does not say (recurrent models, ALiBi)."""
    config: Any = getattr(model, "config", None)
    if config is None:
        return None
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text_config, "max_position_embeddings", None)


def _batches(
    size: int, window: int, stride: int, batch_size: int
) -> Iterator[tuple[list[int], int, int]]:
    """(starts of the windows, their length, tokens to score at the end of each) of every batch.

    Windows of one batch are alike: the first of a text scores more tokens than those that
    overlap it, and the last may be shorter and score fewer.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    done = 0  # tokens seen by the windows so far
    for start in range(0, size, stride):
        end = min(start + window, size)
        fresh = min(end - done, end - start - 1)
        if fresh > 0:
            groups.setdefault((end - start, fresh), []).append(start)
        done = end
        if end == size:
            break
    for (length, fresh), starts in groups.items():
        for first in range(0, len(starts), batch_size):
            yield starts[first : first + batch_size], length, fresh


def _gather(ids: Tensor, starts: list[int], length: int) -> Tensor:
    return ids[torch.tensor(starts).unsqueeze(1) + torch.arange(length)]


@torch.inference_mode()
def _losses(model: nn.Module, ids: Tensor, fresh: int) -> Tensor:
    """Nats of the last `fresh` tokens of every window: fp32 [windows · fresh]."""
    ids = ids.to(next(chain(model.parameters(), model.buffers()), ids).device)
    # A cache would only cost memory; a module that is no transformers model may not know the word.
    options = {"use_cache": False} if isinstance(model, PreTrainedModel) else {}
    logits = model(input_ids=ids, **options).logits[:, -fresh - 1 : -1]
    rows = max(1, SOFTMAX_ELEMENTS // logits.shape[-1])
    parts = zip(
        logits.flatten(0, 1).split(rows),
        ids[:, -fresh:].flatten().to(logits.device).split(rows),
        strict=True,
    )
    return torch.cat([F.cross_entropy(x.float(), y, reduction="none") for x, y in parts])
