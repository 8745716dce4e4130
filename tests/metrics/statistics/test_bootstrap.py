"""Intervals hold the truth as often as they say, and are None where they mean nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.errors import UserError
from bitstack.metrics.statistics.bootstrap import bootstrap, mean_interval, percentiles

FLOATS = st.floats(-1e6, 1e6, allow_nan=False)


def test_the_interval_of_a_mean_covers_it() -> None:
    rng = np.random.default_rng(0)
    draws = [mean_interval(rng.normal(3, 2, 60), resamples=400) for _ in range(300)]
    covered = np.mean([i is not None and i.low <= 3 <= i.high for i in draws])
    assert 0.90 <= covered <= 0.99


def test_documents_are_drawn_whole() -> None:
    # Two kinds of documents, many tokens each: the spread is that of 10 documents, not of tokens.
    sums = np.array([[1000.0 * (i % 2), 1000.0] for i in range(10)])
    interval = bootstrap(sums, lambda t: t[..., 0] / t[..., 1])
    assert interval is not None
    assert interval.high - interval.low > 0.4


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=2, max_size=30), st.integers(0, 5))
def test_an_interval_lies_within_the_values_and_repeats(values: list[float], seed: int) -> None:
    first, again = mean_interval(values, seed=seed), mean_interval(values, seed=seed)
    assert first is not None
    assert first == again
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= first.low <= first.high <= max(values) + slack


def test_many_documents_are_drawn_in_parts() -> None:
    interval = mean_interval(np.arange(50_000.0), resamples=200)
    assert interval is not None
    assert interval.low < 24_999.5 < interval.high


def test_none_where_it_is_not_defined() -> None:
    assert mean_interval([1.0]) is None
    assert bootstrap([[0.0, 0.0], [1.0, 1.0]], lambda t: t[..., 0] / t[..., 1]) is None
    assert percentiles([1.0, float("inf")]) is None
    assert percentiles([]) is None


def test_the_level_is_checked() -> None:
    with pytest.raises(UserError, match="level 1"):
        bootstrap([[1.0], [2.0]], lambda t: t[..., 0], level=1.0)
