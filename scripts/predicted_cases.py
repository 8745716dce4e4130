"""Predicts scores that were measured, from every choice of other sizes: for
`bench_predicted_scores.py`.

Does not measure.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitstack.metrics.tasks.predicted import ORIGINAL
from bitstack.metrics.tasks.prediction import Answered, predict_score

METHODS = ("predicted", "line over KL", "line over bytes")
Sizes = dict[str, dict[str, Any]]  # by budget: resident_bytes, kl, seconds, margins by score


@dataclass(frozen=True)
class Case:
    """One score at one size, measured and predicted from others."""

    score: str  # "task metric"
    fitted: tuple[str, ...]  # budgets taken as measured
    budget: str
    kl: float
    measured: float
    predicted: float
    low: float
    high: float
    line_over_kl: float
    line_over_bytes: float
    extrapolated: bool


def cases(sizes: Sizes, counts: tuple[int, ...] = (1, 2, 3)) -> Iterator[Case]:
    """Yields every score at every budget, predicted from every choice of other budgets."""
    budgets = [name for name in sizes if name != ORIGINAL]
    for score in sizes[ORIGINAL]["margins"]:
        for count in counts:
            for fitted in itertools.combinations(budgets, count):
                yield from predictions(sizes, score, fitted)


def predictions(sizes: Sizes, score: str, fitted: tuple[str, ...]) -> Iterator[Case]:
    """Yields one score at every budget that is not among `fitted`."""
    known = [sizes[name] for name in (ORIGINAL, *fitted)]
    answered = [Answered(one["kl"], one["margins"][score]) for one in known]
    right = [share(one["margins"][score]) for one in known]
    for name, size in sizes.items():
        if name in (ORIGINAL, *fitted):
            continue
        guess = predict_score(answered, size["kl"])
        assert guess.interval is not None
        lines = [
            line([(one[axis], y) for one, y in zip(known, right, strict=True)], size[axis])
            for axis in ("kl", "resident_bytes")
        ]
        yield Case(
            score, fitted, name, size["kl"], share(size["margins"][score]), guess.value,
            guess.interval.low, guess.interval.high, *lines, guess.extrapolated,
        )  # fmt: skip


def line(points: list[tuple[float, float]], x: float) -> float:
    """Returns straight lines between `points`, level beyond them, at `x`."""
    return float(np.interp(x, *zip(*sorted(points), strict=True)))


def share(margins: list[float]) -> float:
    """Returns the share of right answers."""
    return sum(margin > 0 for margin in margins) / len(margins)


def summary(found: list[Case]) -> list[dict[str, Any]]:
    """Returns the root mean square errors in percentage points, by score and kind of prediction."""
    rows = []
    key = lambda one: (one.score, len(one.fitted), one.extrapolated)  # noqa: E731
    for (score, count, beyond), group in itertools.groupby(sorted(found, key=key), key):
        some = list(group)
        guesses = [[one.predicted, one.line_over_kl, one.line_over_bytes] for one in some]
        errors = 100 * (np.array(guesses) - np.array([[one.measured] for one in some]))
        held = np.mean([one.low <= one.measured <= one.high for one in some])
        width = 100 * np.mean([one.high - one.low for one in some])
        rows.append(
            {"score": score, "measured": count, "extrapolated": beyond, "cases": len(some)}
            | dict(zip(METHODS, np.sqrt((errors**2).mean(0)).tolist(), strict=True))
            | {"bias": float(errors[:, 0].mean()), "held": float(held), "width": float(width)}
        )
    return rows
