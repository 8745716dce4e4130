"""A run fits the time that it is given, says what it does in it, and ends whole when it is late."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitstack import compress, load
from bitstack.compression import clock as clock_module
from bitstack.compression.clock import Clock, fit, limited, poorest
from bitstack.errors import UserError
from bitstack.recipe import Recipe, load_recipe

Folder = Callable[..., Path]
QUICK = {"num_samples": 2, "seq_len": 24, "order_samples": 1, "blocks": 2, "tune_steps": 0}


def seconds(recipe: Recipe) -> float:
    """A model of which a step of tuning takes 1 s, measuring the order 50 s, a pass 10 s."""
    passes = recipe.joint_passes + recipe.refit_rounds * recipe.search_sweeps
    tokens = recipe.num_samples * recipe.seq_len / 8192
    return recipe.tune_steps + 50 * (recipe.order == "loss") + 10 * passes + tokens


def test_with_time_enough_nothing_is_cut() -> None:
    recipe = load_recipe("default")
    assert fit(recipe, 10_000, seconds) is recipe


@pytest.mark.parametrize("given", [2000, 1500, 700, 300, 200, 100, 60, 30, 20])
def test_a_plan_fits_and_asks_for_no_more_than_the_recipe(given: float) -> None:
    recipe = load_recipe("default")
    plan = fit(recipe, given, seconds)
    assert seconds(plan) <= clock_module.PLANNED * given
    for name in ("tune_steps", "joint_passes", "search_sweeps", "refit_rounds", "num_samples"):
        assert getattr(plan, name) <= getattr(recipe, name)
    assert plan.tune_steps == 0 or plan.tune_steps >= 100
    untuned = plan.model_copy(update={"tune_steps": 0})
    assert plan.tune_steps == 0 or 3 * seconds(untuned) <= seconds(plan) + 2
    assert plan.overrides == recipe.overrides


def test_more_time_never_buys_less() -> None:
    recipe = load_recipe("default")
    plans = [fit(recipe, given, seconds) for given in range(20, 3000, 20)]
    times = [seconds(plan) for plan in plans]
    assert times == sorted(times)


def test_time_that_is_left_goes_to_tuning() -> None:
    plan = fit(load_recipe("default"), 1000, seconds)
    assert plan.tune_steps > 500
    assert seconds(plan) > clock_module.PLANNED * 1000 - 2


def test_without_text_nothing_is_tuned() -> None:
    plan = fit(load_recipe("default", calibration="none"), 1000, seconds)
    assert plan.tune_steps == 0


def test_the_least_is_named() -> None:
    with pytest.raises(UserError, match=r"--time 5.0 s: the least run .* takes about 1[0-9]\.\d s"):
        fit(load_recipe("default"), 5, seconds)


def test_the_poorest_is_no_richer_than_a_rung() -> None:
    recipe = load_recipe("default")
    assert seconds(poorest(recipe)) <= seconds(limited(recipe, {"order": "predicted"}))
    fast = load_recipe("fast", search_sweeps=0)
    assert poorest(fast).search_sweeps == 0


@pytest.mark.parametrize("time", ["soon", "0s", "-5", "", 0, -1.0, float("nan"), float("inf")])
def test_what_is_no_time(time: Any, tmp_path: Path, pico_model: Folder) -> None:
    with pytest.raises(UserError, match=r"--time .*: not a time; write one such as 20m"):
        compress(pico_model("llama-tied"), tmp_path / "out", time=time)
    assert not (tmp_path / "out").exists()


def test_a_run_says_its_plan_and_what_more_would_buy(
    pico_model: Folder, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(clock_module, "predict", lambda inputs, recipe, speeds: seconds(recipe))
    with caplog.at_level(logging.WARNING, "bitstack"):
        compress(
            pico_model("llama-tied"), tmp_path / "out", calibration=str(text_file), time="2 min",
            **QUICK | {"tune_steps": 500},
        )  # fmt: skip
    lines = [line for line in caplog.text.splitlines() if "clock:" in line]
    assert "clock: 2 min 00 s; planned: 48 tokens" in caplog.text
    assert "0 tuning steps, order predicted" in caplog.text
    assert "would have bought 48 tokens" in lines[-1]
    assert "500 tuning steps, order loss" in lines[-1]
    assert load(tmp_path / "out").bitstack.bits_per_weight > 1


def test_a_late_run_ends_whole_and_says_what_was_cut(
    pico_model: Folder, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The forecast promised next to nothing, and the clock runs out at once."""
    monkeypatch.setattr(clock_module, "predict", lambda inputs, recipe, speeds: 0.0)
    monkeypatch.setattr(Clock, "left", lambda self: -1.0)
    with caplog.at_level(logging.WARNING, "bitstack"):
        compress(
            pico_model("llama-tied"), tmp_path / "out", calibration=str(text_file), time=60,
            **QUICK | {"tune_steps": 5},
        )  # fmt: skip
    assert "late; the last matrices were decomposed in fewer passes" in caplog.text
    assert "late; 5 steps of tuning were left out" in caplog.text
    assert "late; the order was predicted, not measured" in caplog.text
    assert load(tmp_path / "out").bitstack.bits_per_weight > 1


def test_an_interrupted_run_goes_on_with_its_plan(
    pico_model: Folder, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the machine seems faster the second time."""
    fields: dict[str, Any] = QUICK | {"calibration": str(text_file), "order": "loss"}
    speed = [1.0]
    monkeypatch.setattr(
        clock_module, "predict", lambda inputs, recipe, speeds: speed[0] * seconds(recipe)
    )

    def fail(*args: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("bitstack.compression.pipeline.choose_order", fail)
        with pytest.raises(RuntimeError):
            compress(pico_model("llama-tied"), tmp_path / "out", time=60, **fields)
    speed[0] = 0.01
    compress(pico_model("llama-tied"), tmp_path / "out", time=60, **fields)
    assert load_recipe(tmp_path / "out" / "recipe.yaml").order == "predicted"
