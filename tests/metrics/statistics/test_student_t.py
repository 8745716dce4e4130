"""Quantiles of Student's t against the values of printed tables."""

import pytest

from bitstack.metrics.statistics.bootstrap import Z
from bitstack.metrics.statistics.student_t import t_quantile


@pytest.mark.parametrize(
    ("freedom", "level", "expected"),
    [(1, 0.95, 12.706), (4, 0.95, 2.776), (4, 0.99, 4.604), (30, 0.9, 1.697)],
)
def test_values_of_tables(freedom: int, level: float, expected: float) -> None:
    assert t_quantile(freedom, level) == pytest.approx(expected, abs=5e-4)


def test_many_degrees_of_freedom_are_a_normal_distribution() -> None:
    assert t_quantile(10**9) == pytest.approx(Z, abs=1e-6)
