"""The loss to expect of another size of a series, from the information capacity of its sizes.

Within a series information capacity is about constant (arXiv 2511.08066, section 4), so one
measured size tells of the others. Measuring is `information_capacity`'s business.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bitstack.errors import UserError
from bitstack.metrics.capacity.information_capacity import InformationCapacity
from bitstack.metrics.statistics.bootstrap import LEVEL, Interval


@dataclass(frozen=True)
class Prediction:
    """NLL (bits, per token or byte as its sources) expected of another size of a series."""

    nll: float
    interval: Interval | None
    sources: int


def predict_nll(series: Sequence[InformationCapacity], cost: float) -> Prediction:
    """NLL of another size of a series, whose information capacity is taken to be constant.

    `NLL = TS + bias − IC·log2(cost)` (arXiv 2511.08066, section 4) with the mean IC of `series`;
    `cost` in the unit of theirs. The interval is a prediction interval over the sizes (Student's
    t), or with one size alone the interval of that size. Raises UserError if the measurements
    differ in variant, bias, text size or denominator, or cost is 1 or less.
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
    n, own = len(values), series[0].interval
    if n == 1:
        return own and Interval(top - own.high * scale, top - own.low * scale, own.level)
    spread = float(values.std(ddof=1)) * math.sqrt(1 + 1 / n) * scale
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * spread
    centre = top - float(values.mean()) * scale
    return Interval(centre - half, centre + half)


def _terms(one: InformationCapacity) -> tuple[str, float, str, float]:
    return one.variant, one.bias, one.denominator, one.text_size
