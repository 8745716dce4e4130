"""Fits the laws of capacity density to a reference series, with intervals.

Uses bounded least squares from several starts. Does not define the laws; see
`metrics.density.law`. Does not measure the reference models; see `metrics.density.scoring`.
"""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.metrics.density.law import (
    REFERENCE_TOKENS,
    DensityLaw,
    LossLaw,
    Reference,
    ScoreLaw,
)
from bitstack.metrics.statistics.least_squares import fit

EXPONENTS = (0.005, 3.0)  # bounds of α and β
Vector = NDArray[np.float64]


def fit_law(
    references: Sequence[Reference],
    *,
    reference_tokens: float = REFERENCE_TOKENS,
    floor: float | None = None,
    ceiling: float | None = None,
) -> DensityLaw:
    """Fits both laws.

    Args:
        references: The series, with different sizes and different numbers of training tokens.
        reference_tokens: D₀, the training tokens at which sizes are compared.
        floor: Score of a model that guesses; None fits it.
        ceiling: Best score that a model can have; None fits it.

    Raises:
        UserError: the series is too small, or all its models have one size or one number of tokens.
    """
    if not (math.isfinite(reference_tokens) and reference_tokens > 0):
        raise UserError(f"reference tokens is {reference_tokens}; it must be above 0")
    return DensityLaw(
        loss=fit_loss(references),
        score=fit_score(references, floor=floor, ceiling=ceiling),
        reference_tokens=float(reference_tokens),
        references=tuple(references),
    )


def fit_loss(references: Sequence[Reference]) -> LossLaw:
    """Fits the loss law by least squares of ln L, in which models of all sizes weigh alike.

    Raises:
        UserError: as `fit_law`.
    """
    _check(references, 5, "the loss law, with its 4 constants and an interval,")
    size, tokens, loss = (_column(references, f) for f in ("parameters", "tokens", "loss"))
    middle = (float(np.log(size).mean()), float(np.log(tokens).mean()))
    n, d = np.log(size) - middle[0], np.log(tokens) - middle[1]
    target = np.log(loss)

    # ln of the sum of both terms, each given by its own logarithm.
    def residuals(theta: Vector) -> Vector:
        return np.logaddexp(theta[0] - theta[1] * n, theta[2] - theta[3] * d) - target

    top = float(target.mean())
    starts = [
        np.array([top + math.log(0.5), alpha, top + math.log(0.5), beta])
        for alpha, beta in product((0.1, 0.5), (0.1, 0.5))
    ]
    low = np.array([top - 12, EXPONENTS[0], top - 12, EXPONENTS[0]])
    high = np.array([top + 3, EXPONENTS[1], top + 3, EXPONENTS[1]])
    return LossLaw(fit(residuals, starts, low, high), middle)


def fit_score(
    references: Sequence[Reference], *, floor: float | None = None, ceiling: float | None = None
) -> ScoreLaw:
    """Fits the score law by least squares of S; `floor` and `ceiling` hold d and c + d fixed.

    Raises:
        UserError: as `fit_law`, and where no score lies between floor and ceiling.
    """
    least = 3 + (floor is None) + (ceiling is None)
    _check(references, least, "the score law, with its constants and an interval,")
    loss, score = _column(references, "loss"), _column(references, "score")
    bottom, top = floor if floor is not None else 0.0, ceiling if ceiling is not None else 1.0
    if not 0 <= bottom < top <= 1 or not bottom < score.max() or not score.min() < top:
        raise UserError(
            f"scores lie in {score.min():.3g}..{score.max():.3g}, floor {bottom} and ceiling {top}:"
            " the series must have scores between them; give other ones or leave them out"
        )
    # Noise carries scores beyond floor and ceiling, so neither is bounded by the scores; a middle
    # score between them keeps the two apart.
    middle = (max(score.min(), bottom) + min(score.max(), top)) / 2
    low = np.array([middle if ceiling is None else top, math.log(1e-3), -20.0, bottom])
    high = np.array([top, math.log(1e3), 50.0, middle if floor is None else bottom])

    def residuals(theta: Vector) -> Vector:
        return (theta[0] - theta[3]) * _falling(math.exp(theta[1]) * (loss - theta[2])) - (
            score - theta[3]
        )

    spread = float(np.ptp(loss)) or 1.0
    starts = [
        np.array([score.max(), math.log(g / spread), centre, score.min()])
        for g, centre in product((2.0, 10.0), np.quantile(loss, [0.1, 0.5, 0.9]))
    ]
    return ScoreLaw(fit(residuals, starts, low, high))


def _falling(x: Vector) -> Vector:
    return 0.5 - 0.5 * np.tanh(x / 2)  # 1 / (1 + exp x) without overflow


def _column(references: Sequence[Reference], field: str) -> Vector:
    return np.array([getattr(reference, field) for reference in references], dtype=np.float64)


def _check(references: Sequence[Reference], least: int, what: str) -> None:
    if len(references) < least:
        raise UserError(f"{len(references)} reference models: {what} needs at least {least}")
    for field in ("parameters", "tokens", "loss"):
        if len({getattr(reference, field) for reference in references}) < 2:
            raise UserError(
                f"reference models: {field} is the same for all, so its effect cannot be fitted"
            )
