"""The loss of another size of a series, by hand."""

import dataclasses
import math

import pytest

from bitstack.errors import UserError
from bitstack.metrics.capacity.information_capacity import InformationCapacity
from bitstack.metrics.capacity.series import predict_nll
from bitstack.metrics.statistics.bootstrap import Interval


def measured(capacity: float, **changes: object) -> InformationCapacity:
    one = InformationCapacity(
        variant="faithful",
        text_size=32.0,
        nll=3.0,
        bias=-27.0,
        denominator="flops",
        cost=1e9,
        flops_per_token=1e9,
        information_capacity=capacity,
        interval=Interval(capacity - 0.01, capacity + 0.01),
        max_length=1024,
        documents=9,
        skipped_documents=0,
        scored_tokens=1000,
        unknown_tokens=0,
    )
    return dataclasses.replace(one, **changes)  # type: ignore[arg-type]


def test_another_size_of_a_series() -> None:
    # Llama-3 3B to 8B: IC .1765 read off the published figure; NLL = TS + bias − IC log2 F.
    one = predict_nll([measured(0.1765)], 1.527e10)
    assert one.nll == pytest.approx(5 - 0.1765 * math.log2(1.527e10))
    assert one.interval is not None
    assert one.interval.high - one.interval.low == pytest.approx(0.02 * math.log2(1.527e10))
    three = predict_nll([measured(c) for c in (0.1751, 0.1765, 0.1778)], 1.527e10)
    assert three.interval is not None
    assert three.interval.low < one.nll < three.interval.high
    with pytest.raises(UserError, match="must share"):
        predict_nll([measured(0.2), measured(0.2, bias=-24.0)], 1e9)
    with pytest.raises(UserError, match="must share"):
        predict_nll([], 1e9)
    with pytest.raises(UserError, match="must exceed 1"):
        predict_nll([measured(0.2)], 1.0)
