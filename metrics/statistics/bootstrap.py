"""Intervals by the bootstrap over documents: which texts were read is what a figure depends on.

A metric that is a function of sums over documents (a mean, a ratio, a difference) is recomputed on
documents drawn with replacement (percentile method, Efron 1979). Tokens are not drawn one by one:
those of one document are not independent. Values per document are the caller's business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitstack.errors import UserError

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
LEVEL = 0.95
Z = 1.959964  # half of a normal's 95% interval over its standard error
RESAMPLES = 1000
CHUNK = 2**22  # draw counts held at a time


@dataclass(frozen=True)
class Interval:
    """Both ends in the unit of the figure, and the share of intervals that hold the true value.

    `level` is None for a range that is no confidence interval; its source says what it is.
    """

    low: float
    high: float
    level: float | None = LEVEL


def standard_error(interval: Interval | None) -> float:
    """The standard error that a normal figure with this 95% interval has; 0 without one."""
    return 0.0 if interval is None else (interval.high - interval.low) / (2 * Z)


def bootstrap(
    sums: ArrayLike,
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval | None:
    """Interval of `statistic` over documents.

    `sums` [documents, k] holds the k figures of each document that add up; `statistic` maps totals
    [..., k] to values [...]. None where it cannot be defined: fewer than two documents, or a
    resample for which the statistic is not finite. Raises UserError for a bad level or count.
    """
    if not 0 < level < 1 or resamples < 1:
        raise UserError(f"level {level}, resamples {resamples}: level is in (0, 1), resamples ≥ 1")
    table = np.atleast_2d(np.asarray(sums, dtype=np.float64))
    if len(table) < 2:
        return None
    with np.errstate(all="ignore"):
        values = statistic(_totals(table, resamples, np.random.default_rng(seed)))
    return percentiles(values, level)


def percentiles(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """The central interval of draws of a figure; None unless every draw is finite."""
    draws = np.asarray(values, dtype=np.float64)
    if draws.size == 0 or not np.isfinite(draws).all():
        return None
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def mean_interval(values: Sequence[float] | NDArray, **options: float) -> Interval | None:
    """`bootstrap` of the plain mean of one figure per document."""
    pairs = np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
    return bootstrap(pairs, lambda t: t[..., 0] / t[..., 1], **options)  # type: ignore[arg-type]


def _totals(table: NDArray, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Totals [resamples, k] of as many documents as there are, drawn with replacement."""
    count = len(table)
    step, uniform = max(1, CHUNK // count), np.full(count, 1 / count)
    parts = [
        rng.multinomial(count, uniform, size=min(step, resamples - start)) @ table
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)
