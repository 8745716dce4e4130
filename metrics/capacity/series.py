"""Predicts the loss of another size of a series of models from their information capacity.

Within a series information capacity is about constant (arXiv 2511.08066, section 4), so the loss of
one size gives that of the others. Does not measure; see `metrics.capacity.information_capacity`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.metrics.capacity.information_capacity import InformationCapacity
from bitstack.metrics.statistics.bootstrap import Interval
from bitstack.metrics.statistics.student_t import t_quantile


@dataclass(frozen=True)
class Prediction:
    """The NLL predicted for another size of a series."""

    nll: float  # bits, per token or byte as in the measured sizes
    interval: Interval | None  # of nll
    sources: int  # measured sizes


def predict_nll(series: Sequence[InformationCapacity], cost: float) -> Prediction:
    """Predicts the NLL of another size, taking the information capacity IC to be constant.

    `NLL = TS + bias − IC·log2(cost)` with the mean IC of `series` (arXiv 2511.08066, section 4).

    Args:
        series: Measurements of at least one size, all on the same terms.
        cost: Cost of a token (or byte) of the other size, in the unit of the measurements.

    Returns:
        The prediction. Its interval is a prediction interval over the sizes (Student's t); with
        one size alone it comes from that size's own interval.

    Raises:
        UserError: the measurements differ in variant, bias, text size or denominator, or `cost`
            is 1 or less.
    """
    if len({_terms(one) for one in series}) != 1:
        raise UserError(
            f"series of {len(series)} measurements: at least one is needed, and all must share "
            "variant, bias, denominator and text size (that is, text and tokenizer)"
        )
    if cost <= 1:
        raise UserError(f"cost is {cost}; it must exceed 1, or its logarithm means nothing")
    top, scale = series[0].text_size + series[0].bias, math.log2(cost)
    values = np.array([one.information_capacity for one in series])
    return Prediction(
        top - float(values.mean()) * scale, _nll_interval(series, values, top, scale), len(series)
    )


def _nll_interval(
    series: Sequence[InformationCapacity], values: NDArray[np.float64], top: float, scale: float
) -> Interval | None:
    n, only = len(values), series[0].interval
    if n == 1:
        return only and Interval(top - only.high * scale, top - only.low * scale, only.level)
    # A new size scatters like the others, and their mean is uncertain too: s·sqrt(1 + 1/n).
    spread = float(values.std(ddof=1)) * math.sqrt(1 + 1 / n) * scale
    half = t_quantile(n - 1) * spread
    centre = top - float(values.mean()) * scale
    return Interval(centre - half, centre + half)


def _terms(one: InformationCapacity) -> tuple[str, float, str, float]:
    return one.variant, one.bias, one.denominator, one.text_size
