"""Measures how far a student is from its teacher: KL divergence, loss gap, top-1 agreement.

Means over all tokens, by position in the window, and by how often the target token occurs in the
text, each with a bootstrap interval over documents. The student may be any model with the same
tokenizer, also one that runs from packed blocks. Does not say which teacher suits a student; see
`metrics.gap.law`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.machine.progress import bar
from bitstack.metrics.loss.documents import check_tokenizers, encode, vocabulary_size
from bitstack.metrics.loss.sequence_loss import forward
from bitstack.metrics.statistics.bootstrap import Interval, bootstrap
from bitstack.original.first_tokens import start_id
from bitstack.original.model_limits import check_ids, positions

WINDOW = 1024  # tokens, where the models read as many
BATCH_TOKENS = 4096
SOFTMAX_ELEMENTS = 2**22  # probabilities in memory at a time
LEAST_LOG = -1e20  # stands for the logarithm of a probability of 0
FIGURES = ("kl", "loss_gap", "agreement", "teacher_loss", "student_loss")


@dataclass(frozen=True)
class Gap:
    """Means over some tokens."""

    tokens: int
    kl: float  # KL(teacher || student), nats per token
    loss_gap: float  # student's loss − teacher's loss, nats per token
    agreement: float  # share of tokens for which both predict the same most likely token
    teacher_loss: float  # nats per token
    student_loss: float
    intervals: dict[str, Interval | None]  # by the names above; None with fewer than two units


@dataclass(frozen=True)
class CapacityGap:
    """The gap over all tokens and over parts of them."""

    whole: Gap
    by_position: dict[str, Gap]  # "4-7": targets with 4 to 7 tokens of the window before them
    by_frequency: dict[str, Gap]  # "10-99": targets that occur 10 to 99 times in the text
    documents: int
    unit: str  # drawn by the bootstrap: "document", or "window" of a text that is one document
    window: int  # tokens


def capacity_gap(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    student_tokenizer: PreTrainedTokenizerBase | None = None,
    window: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> CapacityGap:
    """Compares two models on `documents`.

    The first token of a window has no context and is not scored; it is the one that the tokenizer
    puts before a text, if it does.

    Args:
        tokenizer: The teacher's.
        student_tokenizer: The student's, checked to be the same; None: both models share one.
        window: Tokens of the windows that documents are cut into; None takes 1024, or fewer where a
            model reads fewer.
        seed: Of the random draws behind the intervals.

    Raises:
        UserError: the tokenizers differ, the window does not fit a model, no window has two tokens,
            or a model gives figures that are not finite.
    """
    check_tokenizers(tokenizer, student_tokenizer or tokenizer, documents)
    window = _window(window, teacher, student)
    ids, start = encode(tokenizer, documents), start_id(tokenizer)
    pieces = [
        (d, [one[i] if start is None else start, *one[i + 1 : i + window]])
        for d, one in enumerate(ids)
        for i in range(0, len(one), window)
    ]
    pieces = [(d, piece) for d, piece in pieces if len(piece) > 1]
    if not pieces:
        raise UserError(
            f"text too short: {sum(map(len, ids))} tokens in {len(ids)} documents, at least 2 in "
            "one document needed; give more text"
        )
    highest = max(max(piece) for _, piece in pieces)
    for model in (teacher, student):
        check_ids(model, highest)
    # One document gives no spread over documents: then the windows are drawn.
    single = len({document for document, _ in pieces}) == 1
    units = list(range(len(pieces))) if single else [document for document, _ in pieces]
    figures, unit, position, target = _compare(
        teacher,
        student,
        [piece for _, piece in pieces],
        units,
        vocabulary_size(tokenizer),
        progress,
    )
    parts = _Parts(figures, np.unique(unit, return_inverse=True)[1], seed)
    frequency = np.bincount(target)[target]  # of every target in the text itself
    return CapacityGap(
        whole=parts.gap(np.ones(len(unit), dtype=bool)),
        by_position=parts.buckets(position, 2),
        by_frequency=parts.buckets(frequency, 10),
        documents=len(documents),
        unit="window" if single else "document",
        window=window,
    )


class _Parts:
    """Averages the figures of every token, [tokens, 5] in the order of FIGURES, over parts."""

    def __init__(self, figures: NDArray[np.float64], unit: NDArray[np.int64], seed: int) -> None:
        self.figures, self.unit, self.seed = figures, unit, seed

    def gap(self, chosen: NDArray[np.bool_]) -> Gap:
        """Returns the means over the tokens that `chosen` [tokens] is true for."""
        some, unit = self.figures[chosen], self.unit[chosen]
        # The bootstrap draws units: sums of every figure and the number of tokens, per unit.
        count = np.bincount(unit)
        columns = [np.bincount(unit, column) for column in some.T]
        sums = np.column_stack([*columns, count])[count > 0]
        total = sums.sum(0)
        values = {name: float(total[i] / total[-1]) for i, name in enumerate(FIGURES)}
        intervals = {
            name: bootstrap(sums, lambda t, i=i: t[..., i] / t[..., -1], seed=self.seed)
            for i, name in enumerate(FIGURES)
        }
        return Gap(tokens=len(some), intervals=intervals, **values)

    def buckets(self, values: NDArray[np.int64], base: int) -> dict[str, Gap]:
        """Returns parts by powers of `base`, from base^k to base^(k+1) − 1, without empty ones."""
        gaps, low = {}, 1
        while low <= values.max():
            chosen = (values >= low) & (values < low * base)
            name = str(low) if base * low - 1 == low else f"{low}-{base * low - 1}"
            if chosen.any():
                gaps[name] = self.gap(chosen)
            low *= base
        return gaps


def _compare(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    pieces: list[list[int]],
    units: list[int],
    vocabulary: int,
    progress: bool,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Returns figures [tokens, 5], and unit, position and id of every scored token."""
    was_training = teacher.training, student.training
    teacher.eval(), student.eval()
    order = sorted(range(len(pieces)), key=lambda i: -len(pieces[i]))
    batches = _batches(order, pieces)
    figures, unit, position, target = [], [], [], []
    for batch in bar(batches, desc="comparing", show=progress):
        ids = torch.tensor([pieces[i] for i in batch])
        figures.append(_token_figures(teacher, student, ids, vocabulary).double().cpu().numpy())
        count = ids.shape[1] - 1
        unit.append(np.repeat([units[i] for i in batch], count))
        position.append(np.tile(np.arange(1, count + 1), len(batch)))
        target.append(ids[:, 1:].flatten().numpy())
    teacher.train(was_training[0]), student.train(was_training[1])
    table = np.concatenate(figures)
    # A NaN, or a token that came though a model gave it a probability of 0.
    if not (np.abs(table) < -LEAST_LOG / 1e6).all():
        raise UserError("a model gives figures that are not finite; the gap is not defined")
    return table, np.concatenate(unit), np.concatenate(position), np.concatenate(target)


@torch.inference_mode()
def _token_figures(
    teacher: PreTrainedModel, student: PreTrainedModel, ids: Tensor, vocabulary: int
) -> Tensor:
    """Returns the FIGURES of every token of `ids` [b, t] but the first: fp32 [b·(t − 1), 5]."""
    logits = [forward(m, ids)[:, :-1, :vocabulary].flatten(0, 1) for m in (teacher, student)]
    targets = ids[:, 1:].flatten()
    rows = max(1, SOFTMAX_ELEMENTS // logits[0].shape[-1])
    parts = []
    for t, s, y in zip(*(x.split(rows) for x in logits), targets.split(rows), strict=True):
        # Log-probabilities of teacher (a) and student (b). Finite even where a probability is 0:
        # then 0 times its logarithm is 0 in the KL, not NaN.
        a, b = (x.to(t.device).float().log_softmax(-1).clamp_(min=LEAST_LOG) for x in (t, s))
        losses = [-x.gather(1, y.to(x.device)[:, None]).squeeze(1) for x in (a, b)]
        top = a.argmax(-1, keepdim=True)
        agree = b.gather(1, top).squeeze(1) == b.amax(-1)
        kl = torch.linalg.vecdot(a.exp(), a.sub_(b)).clamp(min=0)
        parts.append(torch.stack([kl, losses[1] - losses[0], agree, *losses], 1))
    return torch.cat(parts)


def _batches(order: list[int], pieces: list[list[int]]) -> list[list[int]]:
    """Returns batches of pieces of equal length, at most BATCH_TOKENS tokens each."""
    batches: list[list[int]] = []
    for index in order:
        length = len(pieces[index])
        last = batches[-1] if batches else []
        if last and len(pieces[last[0]]) == length and (len(last) + 1) * length <= BATCH_TOKENS:
            last.append(index)
        else:
            batches.append([index])
    return batches


def _window(window: int | None, *models: PreTrainedModel) -> int:
    limits = [limit for model in models if (limit := positions(model)) is not None]
    most = min(limits, default=window or WINDOW)
    window = min(WINDOW, most) if window is None else window
    if not 2 <= window <= most:
        raise UserError(f"window is {window} tokens; it must be from 2 to {most}")
    return window
