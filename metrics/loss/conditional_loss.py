"""Loss of an answer given its instruction, and which of two sentences a model prefers.

The conditional loss is what capacity density is built on: −log P(answer | instruction), the answer
with its reasoning (arXiv 2412.04315, section 3.1). A minimal pair (BLiMP, arXiv 1912.00582) is
won where the acceptable sentence is the likelier one. Any pairs will do, from any source.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.metrics.loss.documents import encode, start_token
from bitstack.metrics.loss.sequence_loss import positions, sequence_losses
from bitstack.metrics.statistics.bootstrap import Interval, bootstrap, mean_interval


@dataclass(frozen=True)
class Pair:
    """An instruction (may be empty) and the answer whose loss counts."""

    instruction: str
    answer: str


@dataclass(frozen=True)
class ConditionalLoss:
    """Nats of the answers: mean per answer and per token; bits per byte compare across tokenizers.

    The intervals are those of the figures above them; None with a single pair.
    """

    pairs: int
    tokens: int
    nats_per_answer: float
    interval: Interval | None
    nats_per_token: float
    token_interval: Interval | None
    bits_per_byte: float


@dataclass(frozen=True)
class MinimalPairs:
    """Share of pairs won, with its standard error, over all pairs and for each paradigm."""

    pairs: int
    accuracy: float
    standard_error: float
    interval: Interval | None
    paradigms: dict[str, float]


def read_jsonl(path: str | Path, fields: Sequence[str]) -> list[tuple[str, ...]]:
    """The text `fields` of every line of a JSONL file.

    Raises UserError with the line number for a broken line or a field that is not a string.
    """
    rows: list[tuple[str, ...]] = []
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a JSONL file in UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append(_fields(line, fields, f"{path} line {number}"))
    if not rows:
        raise UserError(f"{path}: no lines; each must be one object with {', '.join(fields)}")
    return rows


def read_pairs(
    path: str | Path, instruction: str = "instruction", answer: str = "answer"
) -> list[Pair]:
    """Instruction and answer of every line of a JSONL file; UserError as `read_jsonl`."""
    return [Pair(*row) for row in read_jsonl(path, (instruction, answer))]


def conditional_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    seed: int = 0,
    progress: bool = False,
) -> ConditionalLoss:
    """−ln P(answer | instruction) of every pair.

    Instruction and answer are tokenised together and parted where the instruction alone ends; an
    instruction too long for the model loses its beginning. An empty one becomes the start token.
    Raises UserError for an empty answer, or one longer than the model's positions.
    """
    if not pairs:
        raise UserError("pairs: none given; at least one instruction with its answer is needed")
    limit = positions(model)
    split = [_split(tokenizer, pair, limit, index) for index, pair in enumerate(pairs, start=1)]
    losses = sequence_losses(
        model, [ids for ids, _ in split], prompts=[prompt for _, prompt in split], progress=progress
    )
    size = sum(len(pair.answer.encode()) for pair in pairs)
    nats, tokens = float(losses.nats.sum()), int(losses.tokens.sum())
    sums = np.column_stack([losses.nats, losses.tokens])
    return ConditionalLoss(
        pairs=len(pairs),
        tokens=tokens,
        nats_per_answer=nats / len(pairs),
        interval=mean_interval(losses.nats, seed=seed),
        nats_per_token=nats / tokens,
        token_interval=bootstrap(sums, lambda t: t[..., 0] / t[..., 1], seed=seed),
        bits_per_byte=nats / math.log(2) / size,
    )


def minimal_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    paradigms: Sequence[str] | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> MinimalPairs:
    """Share of (acceptable, unacceptable) sentences where the first has the higher probability.

    Whole sentences after the start token, log-probabilities summed, a tie counts half. Raises
    UserError if there are no pairs.
    """
    if not pairs:
        raise UserError("pairs: none given; at least one pair of sentences is needed")
    start = [start_token(tokenizer)]
    ids = encode(tokenizer, [s for pair in pairs for s in pair], special=False)
    nats = sequence_losses(model, [start + one for one in ids], progress=progress).nats.reshape(
        -1, 2
    )
    won = np.sign(nats[:, 1] - nats[:, 0]) / 2 + 0.5
    groups = defaultdict(list)
    for name, result in zip(paradigms or ["all"] * len(pairs), won, strict=True):
        groups[name].append(result)
    return MinimalPairs(
        pairs=len(won),
        accuracy=float(won.mean()),
        standard_error=float(won.std() / math.sqrt(max(1, len(won) - 1))),
        interval=mean_interval(won, seed=seed),
        paradigms={name: float(np.mean(some)) for name, some in sorted(groups.items())},
    )


def _split(
    tokenizer: PreTrainedTokenizerBase, pair: Pair, limit: int | None, number: int
) -> tuple[list[int], int]:
    """(ids, how many of them are the prompt) of one pair, cut on the left to fit the model."""
    instruction, answer = pair.instruction.rstrip(), pair.answer
    answer = pair.instruction[len(instruction) :] + answer  # a space belongs to the next word
    prompt, whole = encode(tokenizer, [instruction, instruction + answer], special=False)
    scored = len(whole) - len(prompt)
    if not pair.answer.strip() or scored < 1:
        raise UserError(f"pair {number}: the answer is empty; every pair needs one")
    if limit is not None and scored >= limit:
        raise UserError(
            f"pair {number}: an answer of {scored} tokens does not fit the {limit} positions of "
            "the model; leave the pair out"
        )
    ids = [*_front(tokenizer, empty=not prompt), *whole]
    ids = ids if limit is None else ids[-limit:]
    return ids, len(ids) - scored


def _front(tokenizer: PreTrainedTokenizerBase, *, empty: bool) -> list[int]:
    """BOS where the tokenizer puts it before a text; the start token where there is no text."""
    if empty:
        return [start_token(tokenizer)]
    bos = tokenizer.bos_token_id
    return [bos] if isinstance(bos, int) and bos in encode(tokenizer, [""])[0][:1] else []


def _fields(line: str, fields: Sequence[str], where: str) -> tuple[str, ...]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: broken JSON ({error}); repair or remove the line") from None
    found = [row.get(name) for name in fields] if isinstance(row, dict) else []
    values = [value for value in found if isinstance(value, str)]
    if len(values) != len(fields):
        raise UserError(f"{where}: needs an object with the text fields {', '.join(fields)}")
    return tuple(values)
