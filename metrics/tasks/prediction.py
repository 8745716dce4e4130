"""Predicts the score of a task at a size that was not measured, from its KL divergence.

As in Clustering-On-Difficulty (arXiv 2502.17262) questions of like difficulty follow one law, and a
score is their sum. But here the same questions were answered by the original and by some sizes of
the container, so that each has a path of its own. The margin of a question (see
`metrics.tasks.margins`) starts at the original's and moves at random as the KL grows: its variance
grows with the KL, at a rate that is measured for each cluster of difficulty. Between two measured
sizes the path is known at both ends, a Brownian bridge whose time is the KL. The score is the share
of margins above 0.

Does not measure anything, see `metrics.tasks.predicted`. `scripts/bench_predicted_scores.py`
measures how good it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.metrics.statistics.bootstrap import Interval, Z, percentiles

CLUSTERS = 5  # of difficulty, with about as many questions each
LEAST = 20  # questions of a cluster
DRAWS = 1000
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Answered:
    """The questions of one task as one size of the model answered them."""

    kl: float  # from the original, nats per token of some text, the same for all; 0: the original
    margins: Sequence[float]  # of every question, in the same order for all sizes


@dataclass(frozen=True)
class PredictedScore:
    """The share of right answers that is expected at a size."""

    kl: float
    value: float
    interval: Interval | None  # of the score that the same questions would give if measured
    extrapolated: bool  # the KL lies above that of every measured size


def predict_score(
    answered: Sequence[Answered],
    kl: float,
    *,
    seed: int = 0,
) -> PredictedScore:
    """Predicts the score of a task at a size of which only the KL divergence is known.

    Args:
        answered: The original (KL 0) and at least one other size, in any order.
        kl: Of the size to predict, from the original, on the text of the others.
        seed: Of the random draws.

    Raises:
        UserError: the original or every other size is missing, the sizes answered different
            numbers of questions, or the KL is not finite or below 0.
    """
    paths = _Paths(_checked(answered, kl))
    rng = np.random.default_rng(seed)
    scores = np.array([paths.draw(rng, kl) for _ in range(DRAWS)])
    return PredictedScore(kl, float(scores.mean()), percentiles(scores), kl > paths.kls[-1])


def interpolate_kl(sizes: Sequence[tuple[int, float]], resident_bytes: int) -> float:
    """Returns the KL at a size between measured ones: its logarithm is linear in the bytes.

    Args:
        sizes: Bytes and KL of two or more measured sizes, without the original.
        resident_bytes: From the smallest to the largest of them.
    """
    known, kls = zip(*sorted(sizes), strict=True)
    assert known[0] <= resident_bytes <= known[-1], "between measured sizes only"
    least = min((kl for kl in kls if kl > 0), default=1.0)
    return float(np.exp(np.interp(resident_bytes, known, np.log(np.maximum(kls, least)))))


class _Paths:
    """The margins of n questions along the KL, known at the measured sizes."""

    def __init__(self, answered: Sequence[Answered]) -> None:
        self.kls = [one.kl for one in answered]
        self.margins = np.array([one.margins for one in answered], dtype=np.float64)
        self.cluster = _clusters(self.margins[0])
        ends = [*zip(range(len(answered) - 1), range(1, len(answered)), strict=True)]
        ends.append((0, len(answered) - 1))  # beyond the last size: as from the original to it
        self.stretches = [self._stretch(first, last) for first, last in ends]

    def draw(self, rng: np.random.Generator, kl: float) -> float:
        """Returns the score of one random path of every question, at `kl`."""
        at = int(np.searchsorted(self.kls, kl, side="right")) - 1
        mean, variance = self.stretches[at]
        chance = rng.standard_normal()
        done = kl - self.kls[at]
        if at + 1 < len(self.kls):
            length = self.kls[at + 1] - self.kls[at]
            share = done / length
            centre = (1 - share) * self.margins[at] + share * self.margins[at + 1]
            # The mean of a cluster need not move evenly: by a power of the KL, mostly 1/2 to 2.
            moved = length * (share**2 ** (chance / Z) - share)
            spread = done * (1 - share)
        else:
            # Nothing is known of the mean there: it may go on as before, turn back, or stay.
            centre, moved, spread = self.margins[at], done * chance, done
        own = np.sqrt(spread * variance)[self.cluster] * rng.standard_normal(len(centre))
        return float((centre + (moved * mean)[self.cluster] + own > 0).mean())

    def _stretch(self, first: int, last: int) -> tuple[Vector, Vector]:
        """Returns what margins do per nat of KL, by cluster: mean and variance of the change."""
        change = self.margins[last] - self.margins[first]
        length = self.kls[last] - self.kls[first]
        parts = [change[self.cluster == one] for one in range(int(self.cluster.max()) + 1)]
        means, variances = (np.array([f(part) for part in parts]) for f in (np.mean, np.var))
        return means / length, variances / length


def _clusters(margins: Vector) -> NDArray[np.int64]:
    """Returns the cluster of every question: by the original's margin, from wrong to right."""
    count = max(1, min(CLUSTERS, len(margins) // LEAST))
    rank = np.argsort(np.argsort(margins, kind="stable"), kind="stable")
    return rank * count // len(margins)


def _checked(answered: Sequence[Answered], kl: float) -> list[Answered]:
    ordered = sorted(answered, key=lambda one: one.kl)
    kls, counts = [one.kl for one in ordered], {len(one.margins) for one in ordered}
    if not (math.isfinite(kl) and kl >= 0):
        raise UserError(f"KL is {kl}; it must be a number of nats, 0 or more")
    if len(kls) < 2 or kls[0] != 0 or len(set(kls)) < len(kls):
        raise UserError(
            f"sizes with KL {', '.join(f'{one:.4g}' for one in kls)}: a prediction needs the "
            "original (KL 0) and at least one smaller model, each with a KL of its own"
        )
    if len(counts) > 1 or 0 in counts:
        raise UserError(f"{sorted(counts)} questions: all sizes must answer the same ones")
    return ordered
