"""Density of models whose size is known, intervals that cover it, and where there is none."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.errors import UserError
from bitstack.metrics.density.capacity_density import density, density_of_loss
from bitstack.metrics.density.fit import fit_law
from bitstack.metrics.density.law import DensityLaw, Reference

SIZES = (5e6, 3e7, 1e8, 3e8, 8e8)


def loss_of(parameters: float, tokens: float) -> float:
    return 10 * parameters**-0.12 + 40 * tokens**-0.2


def score_of(loss: float) -> float:
    return 0.75 / (1 + math.exp(4 * (loss - 1.6))) + 0.2


def law(noise: float = 0.0, seed: int = 0) -> DensityLaw:
    rng = np.random.default_rng(seed)
    rows = []
    for size in SIZES:
        for ratio in (10, 20, 60):
            loss = loss_of(size, size * ratio)
            loss_seen = loss * math.exp(noise * rng.standard_normal())
            score = score_of(loss) + noise * rng.standard_normal()
            rows.append(Reference("r", size, size * ratio, loss_seen, score))
    return fit_law(rows)


EXACT = law()


@settings(deadline=None)
@given(st.floats(6, 9), st.floats(6, 10))
def test_a_model_as_good_as_a_reference_of_known_size(effective: float, actual: float) -> None:
    score = score_of(loss_of(10**effective, 1e12))
    result = density(EXACT, score=score, parameters=10**actual, stored_bytes=1000)
    assert result.effective_parameters == pytest.approx(10**effective, rel=0.02)
    assert result.density == pytest.approx(10 ** (effective - actual), rel=0.02)
    assert result.byte_density == pytest.approx(10**effective * 2 / 1000, rel=0.02)
    assert result.extrapolated == (not 5e6 <= result.effective_parameters <= 8e8)


def test_from_a_loss_without_the_score() -> None:
    result = density_of_loss(EXACT, loss=loss_of(2e8, 1e12), parameters=1e8)
    assert result.density == pytest.approx(2, rel=1e-3)
    assert result.byte_density is None


def test_intervals_cover_the_true_size() -> None:
    true, hits = 2e8, []
    score = score_of(loss_of(true, 1e12))
    for seed in range(60):
        seen = score + 0.004 * np.random.default_rng(1000 + seed).standard_normal()
        result = density(law(0.004, seed), score=seen, score_error=0.004, parameters=1e8)
        assert result.interval is not None
        hits.append(result.interval.low <= true <= result.interval.high)
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize(
    ("score", "reason"),
    [(0.0, "below the floor"), (0.2, "below the floor"), (1.0, "above the ceiling")],
)
def test_scores_at_chance_or_at_the_ceiling_have_no_density(score: float, reason: str) -> None:
    result = density(EXACT, score=score, parameters=1e8, stored_bytes=1000)
    assert result.reason is not None
    assert "not defined" in result.reason
    assert reason in result.reason
    assert (result.density, result.byte_density, result.interval) == (None, None, None)
    json.dumps(dataclasses.asdict(result), allow_nan=False)


def test_a_loss_no_size_reaches_has_no_density() -> None:
    result = density_of_loss(EXACT, loss=0.1, parameters=1e8)
    assert result.reason is not None
    assert "no size gets below 0.1592" in result.reason  # 40 · (1e12)^-0.2


def test_an_interval_that_runs_out_of_the_range_is_none() -> None:
    result = density(law(0.004), score=0.94, score_error=0.05, parameters=1e8)
    assert result.density is not None
    assert result.interval is None


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.2), st.integers(0, 3))
def test_never_a_nan(score: float, error: float, seed: int) -> None:
    result = density(law(0.004), score=score, score_error=error, parameters=1e8, seed=seed)
    json.dumps(dataclasses.asdict(result), allow_nan=False)
    assert (result.density is None) == (result.reason is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": 1.1, "parameters": 1.0}, "a score is from 0 to 1"),
        ({"score": math.nan, "parameters": 1.0}, "a score is from 0 to 1"),
        ({"score": 0.5, "parameters": 0.0}, "parameters is 0"),
        ({"score": 0.5, "parameters": 1.0, "stored_bytes": 0}, "stored bytes is 0"),
    ],
)
def test_bad_figures(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        density(EXACT, **options)
    with pytest.raises(UserError, match="a loss is finite"):
        density_of_loss(EXACT, loss=-1.0, parameters=1.0)
