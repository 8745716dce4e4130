"""Density of models whose size is known, intervals that cover it, and where there is none."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.errors import UserError
from bitstack.metrics.density.capacity_density import density, density_of_loss
from bitstack.metrics.density.fit import fit_law
from bitstack.metrics.density.law import DensityLaw, Reference
from bitstack.metrics.density.law_file import (
    classics_law,
    load_law,
    read_references,
    save_law,
    to_json,
)

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
    found = density(EXACT, score=score, parameters=10**actual, stored_bytes=1000)
    assert found.effective_parameters == pytest.approx(10**effective, rel=0.02)
    assert found.density == pytest.approx(10 ** (effective - actual), rel=0.02)
    assert found.byte_density == pytest.approx(10**effective * 2 / 1000, rel=0.02)
    assert found.extrapolated == (not 5e6 <= found.effective_parameters <= 8e8)


def test_from_a_loss_without_the_score() -> None:
    found = density_of_loss(EXACT, loss=loss_of(2e8, 1e12), parameters=1e8)
    assert found.density == pytest.approx(2, rel=1e-3)
    assert found.byte_density is None


def test_intervals_cover_the_true_size() -> None:
    true, hits = 2e8, []
    score = score_of(loss_of(true, 1e12))
    for seed in range(60):
        seen = score + 0.004 * np.random.default_rng(1000 + seed).standard_normal()
        found = density(law(0.004, seed), score=seen, score_error=0.004, parameters=1e8)
        assert found.interval is not None
        hits.append(found.interval.low <= true <= found.interval.high)
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize(
    ("score", "reason"),
    [(0.0, "below the floor"), (0.2, "below the floor"), (1.0, "above the ceiling")],
)
def test_scores_at_chance_or_at_the_ceiling_have_no_density(score: float, reason: str) -> None:
    found = density(EXACT, score=score, parameters=1e8, stored_bytes=1000)
    assert found.reason is not None
    assert "not defined" in found.reason
    assert reason in found.reason
    assert (found.density, found.byte_density, found.interval) == (None, None, None)
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_a_loss_no_size_reaches_has_no_density() -> None:
    found = density_of_loss(EXACT, loss=0.1, parameters=1e8)
    assert found.reason is not None
    assert "leaves 0.1592 to any size" in found.reason  # 40 · (1e12)^-0.2


def test_an_interval_that_runs_out_of_the_range_is_none() -> None:
    found = density(law(0.004), score=0.94, score_error=0.05, parameters=1e8)
    assert found.density is not None
    assert found.interval is None


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.2), st.integers(0, 3))
def test_never_a_nan(score: float, error: float, seed: int) -> None:
    found = density(law(0.004), score=score, score_error=error, parameters=1e8, seed=seed)
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    assert (found.density is None) == (found.reason is not None)


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


def test_a_law_survives_its_file(tmp_path: Path) -> None:
    path, made = tmp_path / "law.json", law(0.004)
    save_law(made, path, note="how")
    assert load_law(path) == made
    constants = to_json(made)["constants"]["LossLaw"]
    assert constants["alpha"]["interval"]["low"] < 0.12 < constants["alpha"]["interval"]["high"]


def test_the_law_that_comes_with_the_project() -> None:
    shipped = classics_law()
    assert len(shipped.references) == 5
    for reference in shipped.references:
        fitted = float(shipped.loss.loss(reference.parameters, reference.tokens))
        assert fitted == pytest.approx(reference.loss, rel=0.003)
        assert float(shipped.score.score(reference.loss)) == pytest.approx(
            reference.score, abs=0.02
        )
    largest = max(shipped.references, key=lambda reference: reference.parameters)
    options = {"loss": largest.loss, "parameters": largest.parameters}
    assert density_of_loss(shipped, **options).density == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a density law"),
        ('{"format": 2}', "not a density law of format 1"),
        ('{"format": 1, "loss": {}}', "broken density law"),
    ],
)
def test_broken_law_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "law.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_law(path)


def test_a_law_with_a_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    save_law(EXACT, path)
    data = json.loads(path.read_text())
    data["loss"]["fit"]["estimates"][0] = math.nan
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="not finite"):
        load_law(path)


def test_references_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "series.json"
    row = {"parameters": 1e6, "tokens": 1e8, "loss": 3.0, "score": 0.4}
    path.write_text(json.dumps([row | {"name": "a"}, row]))
    assert [r.name for r in read_references(path)] == ["a", "2"]
    path.write_text(json.dumps([row, row | {"loss": None}]))
    with pytest.raises(UserError, match="reference 2: loss is None"):
        read_references(path)
    path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a list"):
        read_references(path)
