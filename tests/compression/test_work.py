"""The work is that counted on a real decomposition, and compares well among recipes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitstack.calibration.fisher import GRADIENT_TOKENS
from bitstack.compression.work import (
    calibration_work,
    decompose_operations,
    order_work,
    stack_products,
    trial_windows,
    tuning_work,
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
    monkeypatch.setattr("bitstack.decompose.problem.product_dtype", lambda _: torch.float32)
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
        calibration_work(source, matrices, count * tokens, 2048, 32) for count in (1, 3, 12)
    )
    assert one.running > tokens * 8 * parameters
    assert one.decomposing == 0
    assert three == pytest.approx([3 * amount for amount in one])
    for kind in ("running", "elementwise"):  # not all of a long text is run backward
        assert getattr(far, kind) < 10 * getattr(one, kind)
    longer = calibration_work(source, matrices, tokens, 2048, 64)
    assert longer.products > one.products
    assert longer.elementwise > one.elementwise


def test_tuning_and_the_order_grow_with_their_steps(pico_model: Folder) -> None:
    source = open_source(pico_model("llama-untied"))
    few, many = (tuning_work(source, load_recipe(tune_steps=steps)) for steps in (100, 300))
    assert many == pytest.approx([3 * amount for amount in few])
    assert set(tuning_work(source, load_recipe(tune_steps=0))) == {0.0}
    matrices = find_matrices(source.model)
    predicted, measured, published = (
        sum(order_work(source, matrices, load_recipe(name, order=order), 32))
        for name, order in (
            ("default", "predicted"), ("default", "loss"), ("paper", "perplexity"),
        )
    )  # fmt: skip
    assert predicted == 0 < measured < published
