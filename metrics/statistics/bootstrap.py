"""Computes confidence intervals by the bootstrap over documents.

A metric that is a function of sums over documents (a mean, a ratio, a difference) is computed again
on documents drawn with replacement (percentile method, Efron 1979). Tokens are not drawn one by
one, since those of one document are not independent. Does not measure the documents; see
`metrics.loss`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitstack.errors import UserError

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
LEVEL = 0.95  # share of intervals that hold the true value
Z = 1.959964  # half the 95% interval of a normal distribution, in standard errors
RESAMPLES = 1000
CHUNK = 2**22  # counts (resamples · documents) held at a time: 32 MiB


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of the figure it belongs to."""

    low: float
    high: float
    # Share of such intervals that hold the true value. None: a range of another kind, which the
    # field that holds it describes.
    level: float | None = LEVEL


def standard_error(interval: Interval | None) -> float:
    """Returns the standard error of a normal figure with this 95% interval; 0 without one."""
    return 0.0 if interval is None else (interval.high - interval.low) / (2 * Z)


def bootstrap(
    sums: ArrayLike,
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval | None:
    """Computes the confidence interval of a statistic of sums over documents.

    Args:
        sums: [documents, k]: k figures of each document that add up, for example its nats and its
            tokens.
        statistic: Maps totals [..., k] to values [...], for example nats / tokens.
        resamples: How often the documents are drawn.
        level: Share of such intervals that hold the true value.
        seed: Seed of the random draws.

    Returns:
        The interval; None with fewer than two documents, or if the statistic of a resample is not
        finite.

    Raises:
        UserError: `level` is not between 0 and 1, or `resamples` is below 1.
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
    """Returns the central interval of draws of a figure; None unless every draw is finite.

    Args:
        values: One figure for each draw.
        level: Share of the draws inside the interval.
    """
    draws = np.asarray(values, dtype=np.float64)
    if draws.size == 0 or not np.isfinite(draws).all():
        return None
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def mean_interval(values: Sequence[float] | NDArray, **options: float) -> Interval | None:
    """Returns the `bootstrap` interval of the mean of one figure per document.

    Args:
        values: The figure of each document.
        **options: As in `bootstrap`.
    """
    pairs = np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
    return bootstrap(pairs, lambda t: t[..., 0] / t[..., 1], **options)  # type: ignore[arg-type]


def _totals(table: NDArray, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns totals [resamples, k] of as many documents as there are, drawn with replacement."""
    # Drawing documents with replacement is drawing how often each one occurs: a multinomial.
    count = len(table)
    step, uniform = max(1, CHUNK // count), np.full(count, 1 / count)
    parts = [
        rng.multinomial(count, uniform, size=min(step, resamples - start)) @ table
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)
