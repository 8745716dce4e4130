"""Measures information capacity: bits a model saves on text over the logarithm of a token's cost.

The variant "faithful" is the published measure, number for number (arXiv 2511.08066 and its code).
It reads another stretch of text for every tokenizer and adds a bias set by hand. The variant
"bytes" reads the same bytes with every model, has no bias, and divides by a cost per byte of text:
FLOPs, bytes moved or nanoseconds. Both give a bootstrap interval over documents.

Does not read files, see `metrics.loss.documents`, does not measure time, see
`metrics.capacity.decode_speed`, and does not predict other sizes, see `metrics.capacity.series`.
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
from bitstack.metrics.loss.documents import (
    encode,
    passages,
    start_token,
    unknown_tokens,
    vocabulary_size,
)
from bitstack.metrics.loss.sequence_loss import sequence_losses
from bitstack.metrics.statistics.bootstrap import Interval, bootstrap
from bitstack.original.model_limits import positions

BIAS = -27.0  # bits, the published default; -24 for mixed text, -18.7 for Chinese FineWeb-Edu
MAX_LENGTH = 1024  # tokens, published
PASSAGE_BYTES = 2048  # of the variant "bytes"
DENOMINATORS = ("flops", "bytes", "nanoseconds")


@dataclass(frozen=True)
class InformationCapacity:
    """One measurement; "per unit" is per token (variant "faithful") or per byte ("bytes")."""

    variant: str  # "faithful" or "bytes"
    text_size: float  # bits per unit of the text itself
    nll: float  # bits per unit under the model
    bias: float  # bits per unit; 0 for "bytes"
    denominator: str  # "flops", "bytes" or "nanoseconds"
    cost: float  # of a unit, in `denominator`
    flops_per_token: float
    information_capacity: float
    interval: Interval | None  # of information_capacity; None with fewer than two documents
    max_length: int  # of a document: tokens for "faithful", bytes for "bytes"
    documents: int
    skipped_documents: int  # of fewer than 2 tokens
    scored_tokens: int
    unknown_tokens: int  # above 0 the tokenizer lost text, and the capacity comes out too high


def information_capacity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    variant: str = "faithful",
    **options: Any,
) -> InformationCapacity:
    """Measures the variant of that name with `faithful` or `by_bytes`.

    Args:
        model: A causal language model, dense or packed.
        tokenizer: The model's tokenizer.
        documents: Texts.
        variant: "faithful" or "bytes".
        **options: As in the function of the variant.

    Raises:
        UserError: another variant, or as in the function of the variant.
    """
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
    """Computes `(TS − NLL + bias) / log2(FLOPs)` per token, as the published code does.

    Text size TS: mean over documents of the bits of decode(ids[1:]) per token, rounded to 2
    decimals. NLL: bits, mean over all tokens but the first of each document, logits cut to the
    tokenizer's length (arXiv 2511.08066). Documents of fewer than 2 tokens are skipped.

    Args:
        model: A causal language model, dense or packed.
        tokenizer: The model's tokenizer.
        documents: Texts.
        max_length: Tokens at which a document is cut; None for the model's positions, at most 1024.
        bias: Bits per token: −24 for the paper's mixed text, −18.7 for its Chinese one.
        seed: Seed of the random draws behind the confidence interval.
        progress: Show a progress bar.

    Raises:
        UserError: no document has 2 tokens, the FLOPs of the config are not defined, or an
            argument is out of range.
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
    losses = sequence_losses(model, used, vocabulary=vocabulary_size(tokenizer), progress=progress)
    sizes = [8 * len(str(tokenizer.decode(ids[1:])).encode()) / (len(ids) - 1) for ids in used]
    ones = np.ones(len(used))
    sums = np.column_stack([sizes, ones, losses.nats / math.log(2), losses.tokens])

    def capacity(total: NDArray[np.float64]) -> NDArray[np.float64]:
        # Rounded, because the published code rounds it.
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
    """Computes `(8 − bits per byte) / log2(cost per byte)` on the same bytes for every tokenizer.

    Documents are cut into passages. Every token of a passage is scored, after the BOS (or EOS)
    token. The cost of a byte is the cost of a token, the mean over a passage, times tokens per
    byte. Its unit is a part of the definition: capacities of different denominators do not compare.

    Args:
        model: A causal language model, dense or packed.
        tokenizer: The model's tokenizer.
        documents: Texts.
        denominator: "flops", "bytes" (moved between memory and processor) or "nanoseconds".
        seconds_per_token: Measured time of a token, for "nanoseconds".
        max_bytes: Most bytes of a passage.
        max_length: Tokens of a window where a passage is longer than that; None for the model's
            positions.
        seed: Seed of the random draws behind the confidence interval.
        progress: Show a progress bar.

    Raises:
        UserError: there is no text, a byte costs 1 or less (the logarithm would be 0 or negative),
            or an argument is out of range.
    """
    texts = [piece for text in documents for piece in passages(text, max_bytes)]
    ids = encode(tokenizer, texts, special=False)
    _require(ids, sum(map(len, ids)), "1 token")
    windows, owner = _windows(ids, start_token(tokenizer), _limit(model, max_length))
    losses = sequence_losses(
        model, windows, vocabulary=vocabulary_size(tokenizer), progress=progress
    )
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
    """Returns windows of at most `limit` ids that cover the texts, and the text of each window."""
    room = max(map(len, ids)) if limit is None else limit - 1
    pieces = [(i, first) for i, one in enumerate(ids) for first in range(0, len(one), room)]
    return [[start, *ids[i][f : f + room]] for i, f in pieces], [i for i, _ in pieces]


def _limit(model: PreTrainedModel, length: int | None) -> int | None:
    """Returns the most tokens of a window, the start token included; None: no limit."""
    most = positions(model)
    if length is not None and (length < 2 or (most is not None and length > most)):
        raise UserError(f"maximum length is {length} tokens; it must be from 2 to {most or 'any'}")
    return most if length is None else length


def _cost(
    model: PreTrainedModel, denominator: str, length: int, seconds: float | None
) -> tuple[float, float]:
    """Returns (FLOPs, cost in the denominator's unit) of a token, the mean over `length`."""
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
