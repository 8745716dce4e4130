"""Predicts the score of a task at a size that was not measured, from its KL divergence.

As in Clustering-On-Difficulty (arXiv 2502.17262) questions of like difficulty follow one law, and a
score is their sum. But here the same questions were answered by the original and by some sizes of
the container, so that each has a path of its own. The margin of a question (see
`metrics.tasks.margins`) starts at the original's and moves at random as the KL grows: its variance
grows with a power of the KL, near 1, at a rate that is measured for each cluster of difficulty.
Between two measured sizes the path is known at both ends: a Brownian bridge. The score is the share
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
POWER, LEAST_POWER = (0.85, 0.2), 0.2  # of the KL: mean and deviation before sizes are seen
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
    known = _checked(answered, kl)
    paths = _Paths(known)
    rng = np.random.default_rng(seed)
    scores = np.array([paths.draw(rng, kl) for _ in range(DRAWS)])
    return PredictedScore(kl, float(scores.mean()), percentiles(scores), kl > known[-1].kl)


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
    """The margins of n questions along the KL, known at the measured sizes.

    Time is a power of the KL, near 1: that by which the variance of the margins grows.
    """

    def __init__(self, answered: Sequence[Answered]) -> None:
        self.kls = np.array([one.kl for one in answered])
        self.margins = np.array([one.margins for one in answered], dtype=np.float64)
        self.cluster = _clusters(self.margins[0])
        self.power = _power(self.kls[1:], (self.margins[1:] - self.margins[0]).var(1))
        ends = [*zip(range(len(answered) - 1), range(1, len(answered)), strict=True)]
        ends.append((0, len(answered) - 1))  # beyond the last size: as from the original to it
        self.changes = [self._change(first, last) for first, last in ends]

    def draw(self, rng: np.random.Generator, kl: float) -> float:
        """Returns the score of one random path of every question, at `kl`."""
        power, chance = max(LEAST_POWER, rng.normal(*self.power)), rng.standard_normal()
        at = int(np.searchsorted(self.kls, kl, side="right")) - 1
        mean, variance = self.changes[at]
        now, before = kl**power, self.kls[at] ** power
        if at + 1 < len(self.kls):
            share = (now - before) / (self.kls[at + 1] ** power - before)
            centre = (1 - share) * self.margins[at] + share * self.margins[at + 1]
            # The mean of a cluster need not move evenly: by a power of the time, mostly 1/2 to 2.
            moved = share**2 ** (chance / Z) - share
            spread = share * (1 - share)
        else:
            # Nothing is known of the mean there: it may go on as before, turn back, or stay.
            spread = (now - before) / before
            centre, moved = self.margins[at], spread * chance
        own = np.sqrt(spread * variance)[self.cluster] * rng.standard_normal(len(centre))
        return float((centre + (moved * mean)[self.cluster] + own > 0).mean())

    def _change(self, first: int, last: int) -> tuple[Vector, Vector]:
        """Returns how margins change from one size to another, by cluster: mean and variance."""
        change = self.margins[last] - self.margins[first]
        parts = [change[self.cluster == one] for one in range(int(self.cluster.max()) + 1)]
        return np.array([part.mean() for part in parts]), np.array([part.var() for part in parts])


def _power(kls: Vector, variances: Vector) -> tuple[float, float]:
    """Returns the power of the KL by which variances grow, and its standard deviation.

    A line through the logarithms, held near POWER the more, the fewer and the closer the sizes are.
    """
    if variances.min() <= 0:
        return POWER
    mean, deviation = POWER
    x, y = np.log(kls) - np.log(kls).mean(), np.log(variances) - np.log(variances).mean()
    weight = 1 / (1 + x @ x)
    return float(weight * (mean + x @ y)), deviation * math.sqrt(weight)


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
