"""The paper's figures, and trends whose growth is known."""

import json
import math
import random
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.errors import UserError
from bitstack.metrics.density.trend import (
    Released,
    doubling_days,
    envelope,
    fit_trend,
    fixed_price_doubling_days,
    price_fall,
    read_released,
    same_quality_day,
)

START = date(2023, 3, 1)


def released(days: float, density: float) -> Released:
    return Released(f"m{days}", START + timedelta(days=int(days)), density)


def growing(growth: float, noise: float = 0.0, seed: int = 0) -> list[Released]:
    rng = random.Random(seed)
    return [
        released(t, 0.2 * math.exp(growth * t + noise * rng.gauss(0, 1))) for t in range(0, 700, 40)
    ]


def test_the_papers_figures() -> None:
    assert doubling_days(0.0073) == pytest.approx(95, abs=0.5)
    assert fixed_price_doubling_days(0.007) == pytest.approx(88, abs=0.5)
    assert price_fall(20, 0.075, 600).factor == pytest.approx(266.7, abs=0.05)


def test_a_price_that_halved_three_times() -> None:
    assert price_fall(8, 1, 90).halving_days == pytest.approx(30)


def test_known_growth_comes_back() -> None:
    trend = fit_trend(growing(0.0073))
    assert trend.growth == pytest.approx(0.0073, rel=1e-6)
    assert trend.doubling_days == pytest.approx(94.95, abs=0.01)
    assert trend.start == "2023-03-01"
    assert trend.intercept == pytest.approx(math.log(0.2))


def test_the_interval_holds_the_growth() -> None:
    hits = 0
    for seed in range(100):
        interval = fit_trend(growing(0.0073, 0.01, seed)).growth_interval
        assert interval is not None
        hits += interval.low <= 0.0073 <= interval.high
    assert 88 <= hits <= 100


@settings(deadline=None)
@given(st.randoms())
def test_dates_out_of_order_give_the_same_trend(rng: random.Random) -> None:
    models = growing(0.005, 0.3)
    shuffled = models[:]
    rng.shuffle(shuffled)
    assert fit_trend(shuffled) == fit_trend(models)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 9)), min_size=1, max_size=20))
def test_the_envelope_rises_and_lies_above_all(points: list[tuple[int, float]]) -> None:
    models = [released(*point) for point in points]
    best = envelope(models)
    assert all(a.day < b.day and a.density < b.density for a, b in pairwise(best))
    for model in models:
        assert max(b.density for b in best if b.day <= model.day) >= model.density


def test_two_models_have_a_line_without_interval() -> None:
    trend = fit_trend([released(0, 1.0), released(100, 2.0)])
    assert trend.doubling_days == pytest.approx(100)
    assert (trend.growth_interval, trend.r_squared, trend.doubling_interval) == (None, None, None)


def test_no_trend_without_two_on_the_envelope() -> None:
    with pytest.raises(UserError, match="2 models, 1 of them on the envelope"):
        fit_trend([released(0, 2.0), released(10, 1.0)])


def test_half_the_size_by_when() -> None:
    assert same_quality_day(math.log(2) / 100, 0.5, START) == START + timedelta(days=100)
    assert same_quality_day(math.log(2) / 100, 0.25, START) == START + timedelta(days=200)
    with pytest.raises(UserError, match="share is 1"):
        same_quality_day(0.007, 1.0, START)
    with pytest.raises(UserError, match="beyond the calendar"):
        same_quality_day(1e-12, 0.5, START)


@pytest.mark.parametrize("growth", [0.0, -0.1, math.nan])
def test_no_doubling_without_growth(growth: float) -> None:
    with pytest.raises(UserError, match="must grow"):
        doubling_days(growth)


def test_a_price_that_rose() -> None:
    with pytest.raises(UserError, match="must fall"):
        price_fall(1, 2, 10)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"date": "2024-13-01", "density": 1}, "row 1: date is '2024-13-01'"),
        ({"density": 1}, "row 1: date is None"),
        ({"date": "2024-01-01", "density": 0}, "row 1: density is 0"),
        ({"date": "2024-01-01", "density": "1"}, "row 1: density is '1'"),
        (1, "row 1: not an object"),
    ],
)
def test_broken_rows(tmp_path: Path, row: object, message: str) -> None:
    path = tmp_path / "trend.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(UserError, match=message):
        read_released(path)


def test_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trend.json"
    path.write_text(json.dumps([{"name": "a", "date": "2024-02-29", "density": 0.5}]))
    assert read_released(path) == [Released("a", date(2024, 2, 29), 0.5)]
