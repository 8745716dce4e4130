"""How far a student is from its teacher, token by token: KL, loss gap, top-1 agreement.

Overall, by position in the window and by how often the target token occurs in the text, each with
a bootstrap interval over documents. The student may be any model of the same tokenizer, a packed
one too. Which teacher suits a student is `gap_law`'s business.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.metrics.loss.documents import check_tokenizers, encode
from bitstack.metrics.loss.sequence_loss import check_ids, forward, positions
from bitstack.metrics.statistics.bootstrap import Interval, bootstrap

WINDOW = 1024
BATCH_TOKENS = 4096
SOFTMAX_ELEMENTS = 2**22
LEAST = -1e20  # stands for the logarithm of a probability of 0
FIGURES = ("kl", "loss_gap", "agreement", "teacher_loss", "student_loss")


@dataclass(frozen=True)
class Gap:
    """Means over `tokens` tokens: KL(teacher || student), student − teacher loss (nats), the share
    of tokens for which both have the same most likely token, and both losses. An interval is None
    with fewer than two units."""

    tokens: int
    kl: float
    loss_gap: float
    agreement: float
    teacher_loss: float
    student_loss: float
    intervals: dict[str, Interval | None]


@dataclass(frozen=True)
class CapacityGap:
    """The gap, whole and in parts. `unit` is what the bootstrap draws: documents, or the windows of
    a text that is one document."""

    whole: Gap
    by_position: dict[str, Gap]
    by_frequency: dict[str, Gap]
    documents: int
    unit: str
    window: int


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
    """Compare two models on `documents`, cut into windows of `window` tokens.

    The first token of a window has no context and is not scored. Positions count from 1, the token
    with one before it; frequencies count a target in the text itself. Raises UserError if the
    tokenizers differ, the window does not fit a model, or no window has two tokens.
    """
    check_tokenizers(tokenizer, student_tokenizer or tokenizer, documents)
    window = _window(window, teacher, student)
    ids = encode(tokenizer, documents)
    pieces = [
        (d, one[i : i + window]) for d, one in enumerate(ids) for i in range(0, len(one), window)
    ]
    pieces = [(d, piece) for d, piece in pieces if len(piece) > 1]
    if not pieces:
        raise UserError(
            f"text too short: {sum(map(len, ids))} tokens in {len(ids)} documents, at least 2 in "
            "one document needed; give more text"
        )
    for model in (teacher, student):
        check_ids(model, [piece for _, piece in pieces])
    single = len({document for document, _ in pieces}) == 1
    owners = list(range(len(pieces))) if single else [document for document, _ in pieces]
    figures, unit, place, target = _compare(
        teacher, student, [piece for _, piece in pieces], owners, len(tokenizer), progress
    )
    parts = _Parts(figures, np.unique(unit, return_inverse=True)[1], seed)
    often = np.bincount(target)[target]
    return CapacityGap(
        whole=parts.gap(np.ones(len(unit), dtype=bool)),
        by_position=parts.buckets(place, 2),
        by_frequency=parts.buckets(often, 10),
        documents=len(documents),
        unit="window" if single else "document",
        window=window,
    )


class _Parts:
    """Per-token figures [tokens, 5] with the unit of every token, to be averaged over parts."""

    def __init__(self, figures: NDArray[np.float64], unit: NDArray[np.int64], seed: int) -> None:
        self.figures, self.unit, self.seed = figures, unit, seed

    def gap(self, chosen: NDArray[np.bool_]) -> Gap:
        some, unit = self.figures[chosen], self.unit[chosen]
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
        """Parts by powers of `base`: from base^k to base^(k+1) − 1, empty ones left out."""
        found, low = {}, 1
        while low <= values.max():
            chosen = (values >= low) & (values < low * base)
            name = str(low) if base * low - 1 == low else f"{low}-{base * low - 1}"
            if chosen.any():
                found[name] = self.gap(chosen)
            low *= base
        return found


def _compare(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    pieces: list[list[int]],
    owners: list[int],
    vocabulary: int,
    progress: bool,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Figures [tokens, 5], and the owner, position and id of every scored token."""
    was_training = teacher.training, student.training
    teacher.eval(), student.eval()
    order = sorted(range(len(pieces)), key=lambda i: -len(pieces[i]))
    figures, owner, place, target = [], [], [], []
    for batch in tqdm(_equal(order, pieces), desc="comparing", disable=None if progress else True):
        ids = torch.tensor([pieces[i] for i in batch])
        figures.append(_token_figures(teacher, student, ids, vocabulary).double().cpu().numpy())
        count = ids.shape[1] - 1
        owner.append(np.repeat([owners[i] for i in batch], count))
        place.append(np.tile(np.arange(1, count + 1), len(batch)))
        target.append(ids[:, 1:].flatten().numpy())
    teacher.train(was_training[0]), student.train(was_training[1])
    table = np.concatenate(figures)
    if not (np.abs(table) < -LEAST / 1e6).all():  # a NaN, or a token held impossible that came
        raise UserError("a model gives figures that are not finite; the gap is not defined")
    return table, np.concatenate(owner), np.concatenate(place), np.concatenate(target)


@torch.inference_mode()
def _token_figures(
    teacher: PreTrainedModel, student: PreTrainedModel, ids: Tensor, vocabulary: int
) -> Tensor:
    """The five figures of every token of `ids` [b, t] but the first: fp32 [b·(t − 1), 5]."""
    logits = [forward(m, ids)[:, :-1, :vocabulary].flatten(0, 1) for m in (teacher, student)]
    targets = ids[:, 1:].flatten()
    rows = max(1, SOFTMAX_ELEMENTS // logits[0].shape[-1])
    parts = []
    for t, s, y in zip(*(x.split(rows) for x in logits), targets.split(rows), strict=True):
        # Finite even where a probability is 0: then 0 times it is 0, and no NaN.
        a, b = (x.to(t.device).float().log_softmax(-1).clamp_(min=LEAST) for x in (t, s))
        losses = [-x.gather(1, y.to(x.device)[:, None]).squeeze(1) for x in (a, b)]
        top = a.argmax(-1, keepdim=True)
        agree = b.gather(1, top).squeeze(1) == b.amax(-1)
        kl = torch.linalg.vecdot(a.exp(), a.sub_(b)).clamp(min=0)
        parts.append(torch.stack([kl, losses[1] - losses[0], agree, *losses], 1))
    return torch.cat(parts)


def _equal(order: list[int], pieces: list[list[int]]) -> list[list[int]]:
    """Batches of pieces of one length, at most BATCH_TOKENS tokens each."""
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
