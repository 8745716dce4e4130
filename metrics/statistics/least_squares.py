"""Fits parameters by nonlinear least squares, with bounds, several starts and intervals.

Intervals are Student's t on the linearised fit (delta method). A parameter that ends at its bound
has no interval, and no parameter has one where the data do not determine all of them. Does not
choose the formula or its coordinates; see `metrics.density.law` and `metrics.gap.fit`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitstack.machine.extras import require
from bitstack.metrics.statistics.bootstrap import LEVEL, Interval
from bitstack.metrics.statistics.student_t import t_quantile

Vector = NDArray[np.float64]
Residuals = Callable[[Vector], Vector]
ROUGH = 8  # evaluations of each start before the best is chosen
SINGULAR = 1e13  # condition number (of JᵀJ, columns scaled to 1) above which there is no covariance


@dataclass(frozen=True)
class Fit:
    """Fitted parameters and how well the data determine them.

    `covariance` is None where the data do not determine the parameters, or leave no degree of
    freedom.
    """

    estimates: list[float]
    covariance: list[list[float]] | None  # rows and columns of parameters at a bound are 0
    freedom: int  # degrees of freedom: residuals minus free parameters
    residual: float  # standard deviation of the residuals
    at_bound: list[bool]  # False for a parameter held fixed

    def interval(self, gradient: ArrayLike, level: float = LEVEL) -> Interval | None:
        """Returns the confidence interval of the linear form `gradient` · parameters.

        None where the covariance is not defined, a parameter in the form is at its bound, or all
        of them are fixed.
        """
        direction = np.asarray(gradient, dtype=np.float64)
        if self.covariance is None or np.any(direction[np.array(self.at_bound)] != 0):
            return None
        centre = float(direction @ np.array(self.estimates))
        # Delta method: the variance of g·θ is gᵀ C g.
        variance = float(direction @ np.array(self.covariance) @ direction)
        if variance <= 0:
            return None
        half = t_quantile(self.freedom, level) * math.sqrt(variance)
        return Interval(centre - half, centre + half, level)

    def draws(self, count: int, rng: np.random.Generator) -> Vector | None:
        """Returns draws [count, parameters] of the fitted multivariate t distribution.

        None without a covariance.
        """
        if self.covariance is None:
            return None
        size = len(self.estimates)
        normal = rng.multivariate_normal(np.zeros(size), self.covariance, count, method="eigh")
        # A normal draw times sqrt(ν / χ²_ν) is a draw of the multivariate t of ν degrees.
        stretch = np.sqrt(self.freedom / rng.chisquare(self.freedom, count))
        return np.asarray(self.estimates) + normal * stretch[:, None]


def fit(residuals: Residuals, starts: Sequence[Vector], low: Vector, high: Vector) -> Fit:
    """Fits the parameters from several starts and keeps the best.

    Args:
        residuals: Maps parameters [k] to residuals [n]; the sum of their squares is minimised.
        starts: Parameters [k] to start from.
        low: Lower bounds [k].
        high: Upper bounds [k]; where equal to `low`, the parameter is held fixed.
    """
    require("scipy")
    from scipy import optimize

    free = high > low
    fixed = np.where(free, 0.0, low)

    def expand(some: Vector) -> Vector:
        whole = fixed.copy()
        whole[free] = some
        return whole

    def run(start: Vector, evaluations: int | None) -> Any:
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
    """Returns the interval of a monotone function of a figure; None if an end is not finite."""
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
    """Returns σ² (JᵀJ)⁻¹ in the rows and columns of free parameters; None where not defined."""
    scale = np.linalg.norm(jacobian, axis=0)
    if not math.isfinite(sigma2) or jacobian.size == 0 or np.any(scale == 0):
        return None
    normal = (jacobian / scale).T @ (jacobian / scale)
    if np.linalg.cond(normal) > SINGULAR:
        return None
    whole = np.zeros((len(free), len(free)))
    whole[np.ix_(free, free)] = sigma2 * np.linalg.inv(normal) / np.outer(scale, scale)
    return whole
