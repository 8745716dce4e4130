"""Fits and their intervals against scipy's, and none where the data do not determine them."""

import math

import numpy as np
import pytest
from scipy import stats

from bitstack.metrics.statistics.bootstrap import Interval
from bitstack.metrics.statistics.least_squares import fit, monotone

X = np.linspace(0, 1, 20)
Y = 2 + 3 * X + 0.1 * np.random.default_rng(0).standard_normal(20)
LOW, HIGH = np.array([-9.0, -9.0]), np.array([9.0, 9.0])


def residuals(theta: np.ndarray) -> np.ndarray:
    return theta[0] + theta[1] * X - Y


def test_a_straight_line_is_that_of_scipy() -> None:
    fitted, line = fit(residuals, [np.zeros(2)], LOW, HIGH), stats.linregress(X, Y)
    assert fitted.estimates == pytest.approx([line.intercept, line.slope])
    interval = fitted.interval([0, 1])
    half = stats.t.ppf(0.975, 18) * line.stderr
    assert interval is not None
    assert interval.high - line.slope == pytest.approx(half, rel=1e-4)


def test_draws_have_the_spread_of_the_interval() -> None:
    fitted = fit(residuals, [np.zeros(2)], LOW, HIGH)
    draws, interval = fitted.draws(20_000, np.random.default_rng(0)), fitted.interval([0, 1])
    assert draws is not None
    assert interval is not None
    assert np.quantile(draws[:, 1], [0.025, 0.975]) == pytest.approx(
        [interval.low, interval.high], abs=0.01
    )


def test_a_fixed_parameter_stays_and_one_at_its_bound_has_no_interval() -> None:
    fixed = fit(residuals, [np.zeros(2)], np.array([2.5, -9.0]), np.array([2.5, 9.0]))
    assert fixed.estimates[0] == 2.5
    assert fixed.interval([0, 1]) is not None
    assert fixed.interval([1, 0]) is None
    bound = fit(residuals, [np.zeros(2)], np.array([2.5, -9.0]), HIGH)
    assert bound.at_bound == [True, False]
    assert bound.interval([1, 0]) is None


def test_what_the_data_do_not_determine_has_no_interval() -> None:
    both = fit(lambda t: t[0] + t[1] - Y, [np.zeros(2)], LOW, HIGH)
    assert both.covariance is None
    assert both.interval([1, 0]) is None
    assert both.draws(3, np.random.default_rng(0)) is None
    exact = fit(lambda t: t - Y[:2], [np.zeros(2)], LOW, HIGH)
    assert exact.freedom == 0
    assert exact.covariance is None


def test_the_best_of_several_starts_wins() -> None:
    def wave(t: np.ndarray) -> np.ndarray:
        return np.sin(t[0] * X * 6) - np.sin(12 * X)

    starts = [np.array([s]) for s in (0.1, 1.5, 8.0)]
    fitted = fit(wave, starts, np.array([-9.0]), np.array([9.0]))
    assert abs(fitted.estimates[0]) == pytest.approx(2, abs=1e-6)


def test_monotone_keeps_order_and_refuses_what_is_not_finite() -> None:
    assert monotone(Interval(1, 2), lambda x: -x) == Interval(-2, -1)
    assert monotone(Interval(0, 2), lambda x: 1 / x) is None
    assert monotone(Interval(1, 1000), math.exp) is None
    assert monotone(None, math.exp) is None
