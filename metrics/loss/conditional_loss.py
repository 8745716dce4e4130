"""Measures the loss of an answer given its instruction, and which of two sentences a model prefers.

The conditional loss is −log P(answer | instruction), the answer with its reasoning: the loss in the
law of capacity density (arXiv 2412.04315, section 3.1). In a minimal pair (BLiMP,
arXiv 1912.00582) the model is right where it gives the acceptable sentence the higher probability.
Does not read benchmarks; see `metrics.tasks.runner` for their pairs.
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
from bitstack.machine.json_file import reason_of
from bitstack.metrics.loss.documents import encode, start_token
from bitstack.metrics.loss.sequence_loss import sequence_losses
from bitstack.metrics.statistics.bootstrap import Interval, bootstrap, mean_interval
from bitstack.original.model_limits import positions


@dataclass(frozen=True)
class Pair:
    """An instruction, which may be empty, and the answer whose loss is measured."""

    instruction: str
    answer: str


@dataclass(frozen=True)
class ConditionalLoss:
    """Loss of all answers of a set of pairs; bits per byte compare across tokenizers."""

    pairs: int
    tokens: int  # of the answers
    nats_per_answer: float
    interval: Interval | None  # of nats_per_answer; None with a single pair
    nats_per_token: float
    token_interval: Interval | None  # of nats_per_token; None with a single pair
    bits_per_byte: float


@dataclass(frozen=True)
class MinimalPairs:
    """Share of pairs in which the model prefers the acceptable sentence."""

    pairs: int
    accuracy: float  # 0 to 1; a tie counts half
    standard_error: float  # of accuracy
    interval: Interval | None  # of accuracy
    paradigms: dict[str, float]  # accuracy of each paradigm by name


def read_jsonl(path: str | Path, fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the text `fields` of every line of a JSONL file.

    Raises:
        UserError: the file cannot be read or has no lines, a line is broken JSON, or a field is
            no string. The message gives the line number.
    """
    rows: list[tuple[str, ...]] = []
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({reason_of(error)}); give a JSONL file in UTF-8"
        ) from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append(_fields(line, fields, f"{path} line {number}"))
    if not rows:
        raise UserError(f"{path}: no lines; each must be one object with {', '.join(fields)}")
    return rows


def read_pairs(
    path: str | Path, instruction: str = "instruction", answer: str = "answer"
) -> list[Pair]:
    """Returns the pair in every line of a JSONL file.

    Args:
        path: The JSONL file.
        instruction: Name of the field with the instruction.
        answer: Name of the field with the answer.

    Raises:
        UserError: as in `read_jsonl`.
    """
    return [Pair(*row) for row in read_jsonl(path, (instruction, answer))]


def conditional_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    seed: int = 0,
    progress: bool = False,
) -> ConditionalLoss:
    """Measures −ln P(answer | instruction) of `pairs`.

    Instruction and answer are tokenised together; the answer starts after as many tokens as the
    instruction has alone. An instruction that is too long for the model loses its beginning. An
    empty one becomes the start token.

    Args:
        model: A causal language model, dense or packed.
        tokenizer: The model's tokenizer.
        pairs: At least one pair.
        seed: Seed of the random draws behind the confidence intervals.
        progress: Show a progress bar.

    Raises:
        UserError: there are no pairs, an answer is empty, or an answer does not fit the positions
            of the model.
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
    """Measures how often the acceptable sentence of a pair has the higher probability.

    The probability is that of the whole sentence after the start token: the sum of the
    log-probabilities of all its tokens. A tie counts half.

    Args:
        model: A causal language model, dense or packed.
        tokenizer: The model's tokenizer.
        pairs: (acceptable, unacceptable) sentences, at least one pair.
        paradigms: The paradigm of each pair, for example "anaphor_number_agreement"; None puts
            all pairs into one, "all".
        seed: Seed of the random draws behind the confidence interval.
        progress: Show a progress bar.

    Raises:
        UserError: there are no pairs.
    """
    if not pairs:
        raise UserError("pairs: none given; at least one pair of sentences is needed")
    start = [start_token(tokenizer)]
    ids = encode(tokenizer, [s for pair in pairs for s in pair], special=False)
    nats = sequence_losses(model, [start + one for one in ids], progress=progress).nats.reshape(
        -1, 2
    )
    right = np.sign(nats[:, 1] - nats[:, 0]) / 2 + 0.5  # 1 right, 0.5 a tie, 0 wrong
    groups = defaultdict(list)
    for name, value in zip(paradigms or ["all"] * len(pairs), right, strict=True):
        groups[name].append(value)
    return MinimalPairs(
        pairs=len(right),
        accuracy=float(right.mean()),
        standard_error=float(right.std() / math.sqrt(max(1, len(right) - 1))),
        interval=mean_interval(right, seed=seed),
        paradigms={name: float(np.mean(values)) for name, values in sorted(groups.items())},
    )


def _split(
    tokenizer: PreTrainedTokenizerBase, pair: Pair, limit: int | None, number: int
) -> tuple[list[int], int]:
    """Returns (ids, how many of them are the prompt) of one pair, cut on the left to `limit`."""
    instruction, answer = pair.instruction.rstrip(), pair.answer
    # Most tokenizers put a space into the token of the next word: it belongs to the answer.
    answer = pair.instruction[len(instruction) :] + answer
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
    """Returns BOS if the tokenizer puts it before a text; the start token for an empty one."""
    if empty:
        return [start_token(tokenizer)]
    bos = tokenizer.bos_token_id
    return [bos] if isinstance(bos, int) and bos in encode(tokenizer, [""])[0][:1] else []


def _fields(line: str, fields: Sequence[str], where: str) -> tuple[str, ...]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: broken JSON ({error}); repair or remove the line") from None
    values = [row.get(name) for name in fields] if isinstance(row, dict) else []
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(fields):
        raise UserError(f"{where}: needs an object with the text fields {', '.join(fields)}")
    return tuple(texts)
