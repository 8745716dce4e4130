"""Capacity density: the size a reference model would need for a model's score, over its own size.

    ρ = N̂ / N,   N̂ = ((L̂ − b D₀^-β) / a)^(-1/α),   L̂ = l − ln(c / (S − d) − 1) / γ

(Densing Law, arXiv 2412.04315 v2, sections 3.2 and 3.3.) Beside it stands the density by bytes,
N̂·2 bytes over the bytes really stored, which moves along a compression curve where ρ counts a
compressed model's parameters in full. Outside the range a law can be inverted in there is no
figure, and the result says why. Fitting the law is left to `density_fit`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.statistics.bootstrap import LEVEL, Interval

DRAWS = 4000
BYTES_PER_PARAMETER = 2  # of a reference model, which is stored in 16 bits
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Density:
    """Effective parameters and densities of one model; all None where `reason` says why.

    `byte_density` is None without stored bytes. An interval is None where an end is unbounded.
    `extrapolated` says that N̂ lies outside the sizes of the reference series.
    """

    parameters: float
    stored_bytes: int | None
    loss: float | None
    effective_parameters: float | None
    interval: Interval | None
    density: float | None
    density_interval: Interval | None
    byte_density: float | None
    byte_interval: Interval | None
    extrapolated: bool
    reason: str | None


def density(
    law: DensityLaw,
    *,
    score: float,
    parameters: float,
    score_error: float = 0.0,
    stored_bytes: int | None = None,
    seed: int = 0,
) -> Density:
    """The density of a model with `score` in [0, 1], as published.

    `score_error` is the standard error of the score; the interval also carries the uncertainty of
    the law's constants. Raises UserError for a score outside [0, 1] and sizes that are not
    positive.
    """
    _check(parameters, stored_bytes)
    if not 0 <= score <= 1 or not score_error >= 0:
        raise UserError(f"score {score}, standard error {score_error}: a score is from 0 to 1")
    rng = np.random.default_rng(seed)
    thetas = law.score.fit.draws(DRAWS, rng)
    scores = score + score_error * rng.standard_normal(DRAWS)
    losses = None if thetas is None else _losses(law, scores, thetas)
    named = law.score.parameters
    d, top = named["d"], named["c"] + named["d"]
    if not d < score < top:
        end = (
            f"at or below the floor {d:.4g}" if score <= d else f"at or above the ceiling {top:.4g}"
        )
        return _undefined(parameters, stored_bytes, f"score {score:.4g} is {end} of the score law")
    loss = float(law.score.loss(score))
    return _density(law, loss, losses, parameters, stored_bytes, rng)


def density_of_loss(
    law: DensityLaw,
    *,
    loss: float,
    parameters: float,
    loss_error: float = 0.0,
    stored_bytes: int | None = None,
    seed: int = 0,
) -> Density:
    """The same from a loss measured on the law's own text, without the way over a score.

    Not the published definition, but defined where a score is at chance or at its ceiling. `loss`
    and its standard error in nats. Raises UserError for a loss that is not positive.
    """
    _check(parameters, stored_bytes)
    if not (math.isfinite(loss) and loss > 0 and loss_error >= 0):
        raise UserError(f"loss {loss}, standard error {loss_error}: a loss is finite and above 0")
    rng = np.random.default_rng(seed)
    losses = loss + loss_error * rng.standard_normal(DRAWS)
    return _density(law, loss, losses, parameters, stored_bytes, rng)


def _density(
    law: DensityLaw,
    loss: float,
    losses: Vector | None,
    parameters: float,
    stored_bytes: int | None,
    rng: np.random.Generator,
) -> Density:
    term = float(law.loss.token_term(law.reference_tokens))
    size = float(law.loss.size(loss, law.reference_tokens)) if loss > term else math.inf
    if not (math.isfinite(size) and size > 0):
        reason = f"loss {loss:.4g} has no size in the law, which leaves {term:.4g} to any size"
        reason += f" after {law.reference_tokens:.4g} tokens"
        return _undefined(parameters, stored_bytes, reason)
    interval = _interval(law, losses, rng)
    by_bytes = BYTES_PER_PARAMETER / stored_bytes if stored_bytes else None
    sizes = [reference.parameters for reference in law.references]
    return Density(
        parameters=parameters,
        stored_bytes=stored_bytes,
        loss=loss,
        effective_parameters=size,
        interval=interval,
        density=size / parameters,
        density_interval=_scaled(interval, 1 / parameters),
        byte_density=None if by_bytes is None else size * by_bytes,
        byte_interval=None if by_bytes is None else _scaled(interval, by_bytes),
        extrapolated=not min(sizes, default=0) <= size <= max(sizes, default=math.inf),
        reason=None,
    )


def _losses(law: DensityLaw, scores: Vector, thetas: Vector) -> Vector:
    """L̂ of drawn scores under drawn laws: +inf at or below the floor, −inf at the ceiling."""
    top, floor = thetas[:, 0], thetas[:, 3]
    with np.errstate(all="ignore"):
        losses = law.score.loss(scores, thetas)
    losses = np.where(scores <= floor, np.inf, losses)
    return np.where(scores >= top, -np.inf, losses)


def _interval(law: DensityLaw, losses: Vector | None, rng: np.random.Generator) -> Interval | None:
    """Quantiles of N̂ over draws; where a draw leaves the range it counts as 0 or infinite.

    Draws of a law in which size or training does not help are left out; None if they are many.
    """
    thetas = law.loss.fit.draws(DRAWS, rng)
    if losses is None or thetas is None:
        return None
    with np.errstate(all="ignore"):
        sizes = law.loss.size(losses, law.reference_tokens, thetas)
        sizes = np.where(losses <= law.loss.token_term(law.reference_tokens, thetas), np.inf, sizes)
    sizes = np.where(np.isposinf(losses), 0.0, sizes)[(thetas[:, 1] > 0) & (thetas[:, 3] > 0)]
    if len(sizes) < DRAWS / 2:
        return None
    low, high = np.sort(sizes)[[int((1 + sign * LEVEL) / 2 * len(sizes)) for sign in (-1, 1)]]
    return Interval(float(low), float(high)) if np.isfinite([low, high]).all() else None


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return interval and Interval(interval.low * factor, interval.high * factor, interval.level)


def _undefined(parameters: float, stored_bytes: int | None, reason: str) -> Density:
    values: dict[str, Any] = dict.fromkeys(Density.__dataclass_fields__)
    values |= {"parameters": parameters, "stored_bytes": stored_bytes, "extrapolated": False}
    return Density(**values | {"reason": f"not defined: {reason}"})


def _check(parameters: float, stored_bytes: int | None) -> None:
    if not (math.isfinite(parameters) and parameters > 0):
        raise UserError(f"parameters is {parameters}; it must be above 0")
    if stored_bytes is not None and stored_bytes <= 0:
        raise UserError(f"stored bytes is {stored_bytes}; it must be above 0")
