"""Nonlinear least squares with bounds, several starts, and intervals that say when they are none.

Intervals are Student's t on the linearised fit (delta method). A parameter that ends at its bound
has none, and neither has any where the data leave a direction free. What is fitted, and in which
coordinates the linearisation is good, is left to the laws.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from bitstack.metrics.statistics.bootstrap import LEVEL, Interval

Vector = NDArray[np.float64]
Residuals = Callable[[Vector], Vector]
ROUGH = 8  # evaluations each start has to show what it is worth
SINGULAR = 1e13  # condition number (of JᵀJ, columns scaled to 1) above which nothing is known


@dataclass(frozen=True)
class Fit:
    """Estimates, their covariance (rows of parameters at a bound are 0), degrees of freedom.

    `covariance` is None where the data do not determine the parameters, or leave no degree of
    freedom. `residual` is the standard deviation of what is left.
    """

    estimates: list[float]
    covariance: list[list[float]] | None
    freedom: int
    residual: float
    at_bound: list[bool]

    def interval(self, gradient: ArrayLike, level: float = LEVEL) -> Interval | None:
        """Interval of the linear form `gradient` · parameters; None where it is not defined, and
        for what was held fixed."""
        direction = np.asarray(gradient, dtype=np.float64)
        if self.covariance is None or np.any(direction[np.array(self.at_bound)] != 0):
            return None
        centre = float(direction @ np.array(self.estimates))
        variance = float(direction @ np.array(self.covariance) @ direction)
        if variance <= 0:
            return None
        half = float(stats.t.ppf((1 + level) / 2, self.freedom)) * math.sqrt(variance)
        return Interval(centre - half, centre + half, level)

    def draws(self, count: int, rng: np.random.Generator) -> Vector | None:
        """`count` draws [count, parameters] of the fitted multivariate t; None without spread."""
        if self.covariance is None:
            return None
        size = len(self.estimates)
        normal = rng.multivariate_normal(np.zeros(size), self.covariance, count, method="eigh")
        stretch = np.sqrt(self.freedom / rng.chisquare(self.freedom, count))
        return np.asarray(self.estimates) + normal * stretch[:, None]


def fit(residuals: Residuals, starts: Sequence[Vector], low: Vector, high: Vector) -> Fit:
    """The best of bounded fits from `starts`; `low` == high holds a parameter fixed."""
    free = high > low
    fixed = np.where(free, 0.0, low)

    def expand(some: Vector) -> Vector:
        whole = fixed.copy()
        whole[free] = some
        return whole

    def run(start: Vector, evaluations: int | None) -> optimize.OptimizeResult:
        return optimize.least_squares(
            lambda some: residuals(expand(some)),
            start,
            bounds=(low[free], high[free]),
            x_scale="jac",
            max_nfev=evaluations,
        )

    rough = [run(np.clip(start, low, high)[free], ROUGH) for start in starts]
    best = run(min(rough, key=lambda one: one.cost).x, None)
    pinned = ~free
    pinned[free] = _pinned(best.x, low[free], high[free])
    freedom = len(best.fun) - int((~pinned).sum())
    sigma2 = 2 * best.cost / freedom if freedom > 0 else math.inf
    covariance = _covariance(best.jac[:, ~pinned[free]], sigma2, ~pinned)
    return Fit(
        estimates=expand(best.x).tolist(),
        covariance=None if covariance is None else covariance.tolist(),
        freedom=freedom,
        residual=math.sqrt(2 * best.cost / max(1, freedom)),
        at_bound=[bool(p and f) for p, f in zip(pinned, free, strict=True)],
    )


def monotone(interval: Interval | None, function: Callable[[float], float]) -> Interval | None:
    """The interval of a monotone function of a figure; None where an end is not finite."""
    if interval is None:
        return None
    try:
        ends = sorted((function(interval.low), function(interval.high)))
    except (OverflowError, ValueError, ZeroDivisionError):
        return None
    finite = all(math.isfinite(end) for end in ends)
    return Interval(ends[0], ends[1], interval.level) if finite else None


def _pinned(x: Vector, low: Vector, high: Vector) -> NDArray[np.bool_]:
    near = 1e-6 * (high - low)
    return (x - low < near) | (high - x < near)


def _covariance(jacobian: Vector, sigma2: float, free: NDArray[np.bool_]) -> Vector | None:
    """sigma² (JᵀJ)⁻¹ in the rows and columns of free parameters; None where it is not defined."""
    scale = np.linalg.norm(jacobian, axis=0)
    if not math.isfinite(sigma2) or jacobian.size == 0 or np.any(scale == 0):
        return None
    normal = (jacobian / scale).T @ (jacobian / scale)
    if np.linalg.cond(normal) > SINGULAR:
        return None
    whole = np.zeros((len(free), len(free)))
    whole[np.ix_(free, free)] = sigma2 * np.linalg.inv(normal) / np.outer(scale, scale)
    return whole
