"""Predicted costs are those counted on a real decomposition, and compare well among recipes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitstack.calibration.fisher import GRADIENT_TOKENS
from bitstack.compression.costs import (
    Speeds,
    calibration_operations,
    decompose_operations,
    peak_memory,
    predict_seconds,
    stack_products,
    trial_windows,
)
from bitstack.decompose import decompose, nested
from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem
from bitstack.decompose.refit import PRODUCTS
from bitstack.original.matrices import find_matrices
from bitstack.original.matrix import Matrix
from bitstack.original.source import open_source
from bitstack.recipe import Recipe, load_recipe

Folder = Callable[..., Path]
MATRIX = Matrix("m", "m", "m", "linear", 512, 1024)


@pytest.mark.parametrize(
    "fields",
    [
        {"blocks": 8},
        {"blocks": 6, "chains": [2, 4]},
        {"blocks": 5, "chains": [8], "joint_planes": [2]},
        {"blocks": 4, "search_sweeps": 0},
        {"blocks": 4, "joint_passes": 0, "refit_rounds": 1},
        {"blocks": 8, "joint_levels": 4},
        {"blocks": 5, "chains": [8], "joint_levels": 4},
    ],
)
def test_products_are_counted_exactly(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an error with the second moment, and one for every level that a pass looks at."""
    times, descend, calls = Problem.times_moment, nested.descend, [0]

    def counted_times(problem: Problem, x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return times(problem, x)

    def counted_descend(problem: Problem, levels: list[Level], *rest: Any) -> list[Level]:
        calls[0] += len(levels)
        return descend(problem, levels, *rest)

    monkeypatch.setattr(Problem, "times_moment", counted_times)
    monkeypatch.setattr(nested, "descend", counted_descend)
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(16, 12, generator=generator) for _ in range(2))
    recipe = load_recipe(**fields, rotation="always", outliers="never")
    decompose(weight, recipe, moment=inputs.T @ inputs)
    assert stack_products(recipe, PRODUCTS) == calls[0] > 0


def test_more_search_is_more_work() -> None:
    recipes = load_recipe("fast"), load_recipe("default"), load_recipe("default", joint_passes=12)
    fast, default, more = (decompose_operations(MATRIX, recipe, text=True) for recipe in recipes)
    assert 1.5 * fast < default < more
    assert decompose_operations(MATRIX, load_recipe("fast"), text=False) < fast
    tall = Matrix("t", "t", "t", "linear", 1024, 1024)
    assert decompose_operations(tall, load_recipe("fast"), text=True) > fast


def test_overrides_and_the_published_method_have_costs_of_their_own() -> None:
    def operations(recipe: Recipe) -> float:
        return decompose_operations(MATRIX, recipe, text=True)

    assert operations(load_recipe(overrides={"m": {"blocks": 2}})) < operations(load_recipe())
    assert operations(load_recipe(overrides={"n": {"blocks": 2}})) == operations(load_recipe())
    full, few, many = (
        operations(load_recipe("paper", svd=svd, rank=rank))
        for svd, rank in (("full", 1), ("truncated", 1), ("truncated", 500))
    )
    assert few < full == many  # at so high a rank the truncated one saves nothing
    one = operations(load_recipe("paper", svd="full", blocks=1))
    assert operations(load_recipe("paper", svd="full", blocks=4)) == 4 * one


@pytest.mark.parametrize(("length", "windows"), [(8192, 1), (2048, 2), (512, 8), (64, 16)])
def test_whole_orders_are_tried_on_few_tokens(length: int, windows: int) -> None:
    assert trial_windows(load_recipe(order_samples=16), length) == windows


def test_calibrating_grows_with_the_text(pico_model: Folder) -> None:
    source = open_source(pico_model("llama-untied"))
    matrices = find_matrices(source.model)
    tokens = GRADIENT_TOKENS // 4
    parameters = sum(p.numel() for p in source.model.parameters())
    one, three, far = (
        calibration_operations(source, matrices, count * tokens, 2048) for count in (1, 3, 12)
    )
    assert one[0] > tokens * 8 * parameters
    assert three == pytest.approx((3 * one[0], 3 * one[1]))
    assert far[0] < 10 * one[0]  # not all of a long text is run backward
    assert far[1] == pytest.approx(12 * one[1])


def test_memory_of_text_and_of_tuning(pico_model: Folder) -> None:
    source = open_source(pico_model("llama-untied"))
    matrices = find_matrices(source.model)
    untuned, tuned = load_recipe(tune_steps=0), load_recipe(tune_steps=10)

    def peak(recipe: Recipe, batch: int) -> int:
        return peak_memory(source, matrices, recipe, batch)

    assert peak(tuned, 0) == peak(untuned, 0)  # without text nothing is tuned
    assert 600 << 20 < peak(untuned, 0) < peak(untuned, 2048) <= peak(tuned, 2048)
    assert peak(untuned, 2048) < peak(untuned, 1 << 20)


def test_seconds_without_text_are_those_of_decomposing(pico_model: Folder) -> None:
    speeds = Speeds(1e6, 1e9, 1e8)
    source, recipe = open_source(pico_model("llama-tied")), load_recipe()
    matrices = find_matrices(source.model)
    calibrate, seconds, finish = predict_seconds(source, matrices, recipe, 0, 0, speeds)
    assert (calibrate, finish) == (0, 0)
    work = sum(decompose_operations(m, recipe, text=False) for m in matrices)
    assert seconds == pytest.approx(work / 1e6)
    with_text = predict_seconds(source, matrices, recipe, 4096, 2048, speeds)
    assert min(with_text) > 0
    model, moments = calibration_operations(source, matrices, 4096, 2048)
    assert with_text[0] == pytest.approx(model / 1e9 + moments / 1e8)
