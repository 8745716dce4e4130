"""Information capacity: bits a model saves on text, over the logarithm of what a token costs.

Two variants. `faithful` is the published measure, figure for figure (arXiv 2511.08066 and its
code): it reads another stretch of text for every tokenizer, and subtracts a hand-set bias. `bytes`
gives every model the same bytes, has no bias, and divides by a measured cost: FLOPs, bytes moved or
time, all per byte of text. Both carry a bootstrap interval over documents. Reading files, measuring
time and predicting other sizes is left to others.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.metrics.capacity.flops import published_flops, token_cost
from bitstack.metrics.loss.documents import encode, passages, start_token, unknown_tokens
from bitstack.metrics.loss.sequence_loss import positions, sequence_losses
from bitstack.metrics.statistics.bootstrap import Interval, bootstrap

BIAS = -27.0  # the published default; -24 for its mixed text, -18.7 for its Chinese FineWeb-Edu
MAX_LENGTH = 1024  # tokens, published
PASSAGE_BYTES = 2048
DENOMINATORS = ("flops", "bytes", "nanoseconds")


@dataclass(frozen=True)
class InformationCapacity:
    """One measurement. `text_size`, `nll` and `cost` are per token (`faithful`) or byte (`bytes`).

    text_size and nll are in bits; `flops_per_token` is given with either variant. `interval` is
    None with fewer than two documents. `unknown_tokens` > 0 means that the tokenizer lost text, and
    the figures flatter the model.
    """

    variant: str
    text_size: float
    nll: float
    bias: float
    denominator: str
    cost: float
    flops_per_token: float
    information_capacity: float
    interval: Interval | None
    max_length: int
    documents: int
    skipped_documents: int
    scored_tokens: int
    unknown_tokens: int


def information_capacity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    variant: str = "faithful",
    **options: Any,
) -> InformationCapacity:
    """`faithful` or `by_bytes`, by the name of the variant, "faithful" or "bytes"; `options` are
    those of that function. Raises UserError for another variant."""
    if variant not in ("faithful", "bytes"):
        raise UserError(f"variant {variant!r} is neither 'faithful' nor 'bytes'")
    measure = faithful if variant == "faithful" else by_bytes
    return measure(model, tokenizer, documents, **options)


def faithful(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    max_length: int | None = None,
    bias: float = BIAS,
    seed: int = 0,
    progress: bool = False,
) -> InformationCapacity:
    """`(TS − NLL + bias) / log2(FLOPs)` per token, as the published code computes it.

    Each document is cut at `max_length` tokens (None: 1024, or the model's positions if fewer).
    TS: mean over documents of the bits of decode(ids[1:]) per token, rounded to 2 decimals. NLL:
    mean over all tokens but the first of each document, logits cut to the tokenizer's length.
    Documents of fewer than 2 tokens have no TS and are counted as skipped. Raises UserError if
    none is left, or FLOPs are not defined.
    """
    if max_length is None:
        max_length = min(MAX_LENGTH, positions(model) or MAX_LENGTH)
    if not math.isfinite(bias):
        raise UserError(f"bias is {bias}; it must be a number")
    if max_length < 2:
        raise UserError(f"maximum length is {max_length} tokens; it must be at least 2")
    flops = published_flops(model.config, max_length)
    cut = encode(tokenizer, documents, max_length=max_length)
    used = [ids for ids in cut if len(ids) > 1]
    _require(used, sum(map(len, cut)), "2 tokens in one document")
    losses = sequence_losses(model, used, vocabulary=len(tokenizer), progress=progress)
    sizes = [8 * len(str(tokenizer.decode(ids[1:])).encode()) / (len(ids) - 1) for ids in used]
    ones = np.ones(len(used))
    sums = np.column_stack([sizes, ones, losses.nats / math.log(2), losses.tokens])

    def capacity(total: NDArray[np.float64]) -> NDArray[np.float64]:
        size = np.round(total[..., 0] / total[..., 1], 2)
        return (size - total[..., 2] / total[..., 3] + bias) / math.log2(flops)

    total = sums.sum(0)
    return InformationCapacity(
        variant="faithful",
        text_size=round(float(total[0] / total[1]), 2),
        nll=float(total[2] / total[3]),
        bias=bias,
        denominator="flops",
        cost=flops,
        flops_per_token=flops,
        information_capacity=float(capacity(total)),
        interval=bootstrap(sums, capacity, seed=seed),
        max_length=max_length,
        documents=len(used),
        skipped_documents=len(cut) - len(used),
        scored_tokens=int(losses.tokens.sum()),
        unknown_tokens=unknown_tokens(tokenizer, used),
    )


def by_bytes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    denominator: str = "flops",
    seconds_per_token: float | None = None,
    max_bytes: int = PASSAGE_BYTES,
    max_length: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> InformationCapacity:
    """`(8 − bits per byte) / log2(cost per byte)` on the same bytes for every tokenizer.

    Documents are cut into passages of at most `max_bytes` bytes, all of them scored from the first
    token on, after the tokenizer's BOS (or EOS) token; longer ones than the model's positions in
    windows of that length, or of `max_length` tokens. The cost of a byte is the `denominator`
    ("flops", "bytes" moved, or
    "nanoseconds" from `seconds_per_token`) of a token, the mean over a passage, times tokens per
    byte. The units of the cost are part of the definition. Raises UserError if there is no text,
    or a cost of a byte is 1 or less, where the logarithm means nothing.
    """
    texts = [piece for text in documents for piece in passages(text, max_bytes)]
    ids = encode(tokenizer, texts, special=False)
    _require(ids, sum(map(len, ids)), "1 token")
    windows, owner = _windows(ids, start_token(tokenizer), _limit(model, max_length))
    losses = sequence_losses(model, windows, vocabulary=len(tokenizer), progress=progress)
    bits = np.bincount(owner, losses.nats, len(ids)) / math.log(2)
    length = round(sum(map(len, windows)) / len(windows))
    flops, cost = _cost(model, denominator, length, seconds_per_token)
    sums = np.column_stack([[len(t.encode()) for t in texts], bits, [len(one) for one in ids]])

    def capacity(total: NDArray[np.float64]) -> NDArray[np.float64]:
        size, nll, tokens = total[..., 0], total[..., 1], total[..., 2]
        return (8 - nll / size) / np.log2(cost * tokens / size)

    total = sums.sum(0)
    per_byte = cost * float(total[2] / total[0])
    if per_byte <= 1:
        raise UserError(
            f"{denominator}: {per_byte:.3g} per byte; the capacity is not defined at 1 or less"
        )
    return InformationCapacity(
        variant="bytes",
        text_size=8.0,
        nll=float(total[1] / total[0]),
        bias=0.0,
        denominator=denominator,
        cost=per_byte,
        flops_per_token=flops,
        information_capacity=float(capacity(total)),
        interval=bootstrap(sums, capacity, seed=seed),
        max_length=max_bytes,
        documents=len(texts),
        skipped_documents=0,
        scored_tokens=int(losses.tokens.sum()),
        unknown_tokens=unknown_tokens(tokenizer, ids),
    )


def _windows(
    ids: list[list[int]], start: int, limit: int | None
) -> tuple[list[list[int]], list[int]]:
    """Each text after the start token, in pieces the model takes, and the text of each piece."""
    room = max(map(len, ids)) if limit is None else limit - 1
    pieces = [(i, first) for i, one in enumerate(ids) for first in range(0, len(one), room)]
    return [[start, *ids[i][f : f + room]] for i, f in pieces], [i for i, _ in pieces]


def _limit(model: PreTrainedModel, length: int | None) -> int | None:
    """The most tokens of a window, the start token among them."""
    most = positions(model)
    if length is not None and (length < 2 or (most is not None and length > most)):
        raise UserError(f"maximum length is {length} tokens; it must be from 2 to {most or 'any'}")
    return most if length is None else length


def _cost(
    model: PreTrainedModel, denominator: str, length: int, seconds: float | None
) -> tuple[float, float]:
    """(FLOPs, cost in the unit of the denominator) of a token, the mean over `length` tokens."""
    if denominator not in DENOMINATORS:
        raise UserError(f"denominator {denominator!r} is none of {', '.join(DENOMINATORS)}")
    token = token_cost(model, tokens=length)
    if denominator == "nanoseconds":
        if seconds is None or not seconds > 0:
            raise UserError(f"seconds per token is {seconds}; measure them for 'nanoseconds'")
        return token.flops, 1e9 * seconds
    return token.flops, token.flops if denominator == "flops" else token.bytes_moved


def _require(texts: list[list[int]], tokens: int, least: str) -> None:
    if not any(texts):
        raise UserError(
            f"text too short: {tokens} tokens found, at least {least} needed; give more text"
        )
