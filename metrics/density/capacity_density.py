"""Computes capacity density: the size of a reference model with the same score, over the own size.

    ρ = N̂ / N,   N̂ = ((L̂ − b D₀^-β) / a)^(-1/α),   L̂ = l − ln(c / (S − d) − 1) / γ

S is the score, L̂ the loss that the law gives it, N̂ the effective parameters, N the actual ones
(Densing Law, arXiv 2412.04315 v2, sections 3.2 and 3.3). Beside ρ stands the density by bytes,
2·N̂ bytes (a reference model in 16 bits) over the bytes really stored: compression raises it, while
ρ counts every parameter of a compressed model in full. Where the law cannot be inverted the result
holds no figure and a reason. Does not fit the law, see `metrics.density.fit`; does not run the
model, see `metrics.density.scoring`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.statistics.bootstrap import LEVEL, Interval

DRAWS = 4000  # of the law's constants and of the score, behind the intervals
BYTES_PER_PARAMETER = 2  # of a reference model, which is stored in 16 bits
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Density:
    """Effective parameters and densities of one model.

    Figures are None where the density is not defined; `reason` then says why. An interval is None
    where one of its ends is unbounded.
    """

    parameters: float  # N
    stored_bytes: int | None
    loss: float | None  # nats: L̂ of the score, or as measured
    effective_parameters: float | None  # N̂
    interval: Interval | None  # of N̂
    density: float | None  # ρ
    density_interval: Interval | None
    byte_density: float | None  # None also without stored bytes
    byte_interval: Interval | None
    extrapolated: bool  # N̂ lies outside the sizes of the reference series
    reason: str | None
    beyond: str | None = None  # where not defined: "better" or "worse" than every size of the law


def density(
    law: DensityLaw,
    *,
    score: float,
    parameters: float,
    score_error: float = 0.0,
    stored_bytes: int | None = None,
    seed: int = 0,
) -> Density:
    """Computes the density of a model from its score, as published.

    Args:
        score: From 0 to 1, of the benchmark that the law's series was scored on.
        parameters: Of the model, counted as those of the series were.
        score_error: Standard error of the score. The intervals carry it and the uncertainty of the
            law's constants.
        stored_bytes: Bytes of the whole model; None leaves the density by bytes out.
        seed: Of the random draws behind the intervals.

    Raises:
        UserError: the score is outside [0, 1], or a size is not above 0.
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
        worse = score <= d
        end = f"at or below the floor {d:.4g}" if worse else f"at or above the ceiling {top:.4g}"
        reason = f"score {score:.4g} is {end} of the score law"
        return _undefined(parameters, stored_bytes, reason, "worse" if worse else "better")
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
    """Computes the density of a model from a loss measured as the law's series was.

    Not the published definition, which starts from a score; but a loss gives a density also where
    the score is at chance or at its ceiling.

    Args:
        loss: Nats per token or per answer, as in the law's series.
        loss_error: Standard error of the loss, in nats.

    Raises:
        UserError: the loss or a size is not above 0.
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
        reason = f"loss {loss:.4g} is out of reach of the law: no size gets below {term:.4g}"
        reason += f" with {law.reference_tokens:.4g} training tokens"
        beyond = "better" if loss <= term or size > 0 else "worse"
        return _undefined(parameters, stored_bytes, reason, beyond)
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
    """Returns L̂ of drawn scores under drawn laws: +inf at the floor, −inf at the ceiling."""
    top, floor = thetas[:, 0], thetas[:, 3]
    with np.errstate(all="ignore"):
        losses = law.score.loss(scores, thetas)
    losses = np.where(scores <= floor, np.inf, losses)
    return np.where(scores >= top, -np.inf, losses)


def _interval(law: DensityLaw, losses: Vector | None, rng: np.random.Generator) -> Interval | None:
    """Returns the interval of N̂ over the draws of the law; None if half of the draws are no law.

    A draw outside the range of the law counts as a size of 0 or as an infinite one.
    """
    thetas = law.loss.fit.draws(DRAWS, rng)
    if losses is None or thetas is None:
        return None
    with np.errstate(all="ignore"):
        sizes = law.loss.size(losses, law.reference_tokens, thetas)
        sizes = np.where(losses <= law.loss.token_term(law.reference_tokens, thetas), np.inf, sizes)
    # Where α or β is not above 0, larger models or more training would not help: no law.
    sizes = np.where(np.isposinf(losses), 0.0, sizes)[(thetas[:, 1] > 0) & (thetas[:, 3] > 0)]
    if len(sizes) < DRAWS / 2:
        return None
    low, high = np.sort(sizes)[[int((1 + sign * LEVEL) / 2 * len(sizes)) for sign in (-1, 1)]]
    return Interval(float(low), float(high)) if np.isfinite([low, high]).all() else None


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return interval and Interval(interval.low * factor, interval.high * factor, interval.level)


def _undefined(parameters: float, stored_bytes: int | None, reason: str, beyond: str) -> Density:
    values: dict[str, Any] = dict.fromkeys(Density.__dataclass_fields__)
    values |= {"parameters": parameters, "stored_bytes": stored_bytes, "extrapolated": False}
    return Density(**values | {"reason": f"not defined: {reason}", "beyond": beyond})


def _check(parameters: float, stored_bytes: int | None) -> None:
    if not (math.isfinite(parameters) and parameters > 0):
        raise UserError(f"parameters is {parameters}; it must be above 0")
    if stored_bytes is not None and stored_bytes <= 0:
        raise UserError(f"stored bytes is {stored_bytes}; it must be above 0")
