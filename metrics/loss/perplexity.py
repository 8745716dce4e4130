"""Measures the perplexity of a causal language model on a text, and its bits per byte.

Two perplexities compare only with the same text, tokens, window and stride, so the result carries
them. Works on any module that maps token ids to an object with `.logits`, dense or packed. Does not
read or tokenise the text; see `original.text`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from bitstack.errors import UserError
from bitstack.machine.gathering import gathered, process_group
from bitstack.machine.progress import bar
from bitstack.machine.workers import processes
from bitstack.original.first_tokens import beginning_with
from bitstack.original.model_limits import positions
from bitstack.original.text import Tokens

DEFAULT_WINDOW = 2048  # tokens, the window of the BitStack, GPTQ and AWQ papers
SOFTMAX_ELEMENTS = 2**24  # logits turned to fp32 at a time: 64 MiB


@dataclass(frozen=True)
class Perplexity:
    """Mean negative log-likelihood of a text, with the terms it was measured on."""

    tokens: int  # scored
    window: int  # tokens a forward pass sees
    stride: int  # tokens from the start of one window to the next
    nll_per_token: float  # nats
    perplexity: float  # exp(nll_per_token)
    bits_per_byte: float
    first_token: int | None = None  # id that every window begins with, where the tokenizer has one


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
    """Scores every token of the text once, in the first window that holds it.

    Windows start at 0, stride, 2·stride … until one reaches the end of the text. The first token
    of a window has no context and is never scored. So with `stride == window` one token of each
    window is left out. With a smaller stride only the first token of the text is left out, and
    every other has a context of at least `window - stride` tokens. The last window may be shorter;
    it is never padded. Losses are fp32 per token and summed in fp64.

    Bits per byte are `nll_per_token / ln 2 · ids / bytes`. Ids and UTF-8 bytes are those of the
    whole text, so the figure compares across tokenizers.

    Args:
        model: A causal language model, dense or packed.
        tokens: The text, encoded by the model's tokenizer.
        window: Tokens of a forward pass; None for the model's positions, at most 2048.
        stride: Tokens from the start of one window to the next; None for `window`.
        batch_size: Windows of a forward pass; the result does not depend on it.
        progress: Show a progress bar.
        shared: Share the batches with the other processes of `torchrun` or `accelerate launch`.
            All get the result, the same bits as one process with as many threads.

    Raises:
        UserError: window or stride is out of range, the text has fewer than 2 tokens, or the
            processes do not reach one another.
    """
    window, stride = _checked(model, window, stride)
    if len(tokens.ids) < 2 or tokens.bytes == 0:
        raise UserError(
            f"text too short: {len(tokens.ids)} tokens of {tokens.bytes} bytes found, at least 2 "
            "tokens and 1 byte needed; give more text"
        )
    sums: list[tuple[int, float, int]] = []  # batch, nats, tokens
    rank, count = processes() if shared else (0, 1)
    if shared:
        process_group()  # fails before the work if the processes cannot reach one another
    batches = list(_batches(len(tokens.ids), window, stride, batch_size))
    was_training = model.training
    model.eval()
    try:
        own = list(enumerate(batches))[rank::count]
        for batch, (starts, length, fresh) in bar(
            own, desc="perplexity", show=progress and not rank
        ):
            losses = _losses(model, _gather(tokens, starts, length), fresh)
            sums.append((batch, float(losses.double().sum()), len(losses)))
    finally:
        model.train(was_training)
    # Added in the order of the batches: a float sum must not depend on which process had which.
    sums = sorted(gathered(sums) if shared else sums)
    scored = sum(size for _, _, size in sums)
    nll = sum(nats for _, nats, _ in sums) / scored
    return Perplexity(
        tokens=scored,
        window=window,
        stride=stride,
        nll_per_token=nll,
        perplexity=torch.tensor(nll, dtype=torch.float64).exp().item(),  # inf, where math raises
        bits_per_byte=nll / math.log(2) * len(tokens.ids) / tokens.bytes,
        first_token=tokens.start,
    )


def _checked(model: nn.Module, window: int | None, stride: int | None) -> tuple[int, int]:
    most = positions(model)
    if window is None:
        window = DEFAULT_WINDOW if most is None else min(most, DEFAULT_WINDOW)
    if window < 2 or (most is not None and window > most):
        allowed = "" if most is None else f", at most {most}, the positions of the model"
        raise UserError(f"window is {window} tokens; it must be at least 2{allowed}")
    stride = window if stride is None else stride
    if not 1 <= stride <= window:
        raise UserError(f"stride is {stride} tokens; it must be from 1 to the window, {window}")
    return window, stride


def _batches(
    size: int, window: int, stride: int, batch_size: int
) -> Iterator[tuple[list[int], int, int]]:
    """Yields (starts of the windows, their length, tokens to score at the end of each) by batch.

    Windows of one batch have one shape: the first of a text scores more tokens than those that
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


def _gather(tokens: Tokens, starts: list[int], length: int) -> Tensor:
    ids = tokens.ids[torch.tensor(starts).unsqueeze(1) + torch.arange(length)]
    return beginning_with(ids, tokens.start)


@torch.inference_mode()
def _losses(model: nn.Module, ids: Tensor, fresh: int) -> Tensor:
    """Returns the nats of the last `fresh` tokens of every window, fp32 [windows · fresh]."""
    ids = ids.to(next(chain(model.parameters(), model.buffers()), ids).device)
    # A KV cache would only cost memory. Other modules may not know the argument.
    options = {"use_cache": False} if isinstance(model, PreTrainedModel) else {}
    logits = model(input_ids=ids, **options).logits[:, -fresh - 1 : -1]
    rows = max(1, SOFTMAX_ELEMENTS // logits.shape[-1])
    parts = zip(
        logits.flatten(0, 1).split(rows),
        ids[:, -fresh:].flatten().to(logits.device).split(rows),
        strict=True,
    )
    return torch.cat([F.cross_entropy(x.float(), y, reduction="none") for x, y in parts])
