"""The form of a matrix: weights of fifty standard deviations are coded or kept, not clipped."""

import pytest
import torch

from bitstack.decompose import decompose
from bitstack.decompose.form import choose_form
from bitstack.decompose.nested import Plan
from bitstack.nn import Stack
from bitstack.recipe import load_recipe

QUICK = Plan(4, search_sweeps=0, joint_passes=0)


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def spiked(rows: int = 96, columns: int = 256) -> torch.Tensor:
    """Gaussian weights, a few of them 50 standard deviations large."""
    weight = gaussian(rows, columns)
    for i in range(8):
        weight[11 * i % rows, 37 * i % columns] = 50.0 * (-1) ** i
    return weight


def dequantized(weight: torch.Tensor, level: int, **fields: object) -> torch.Tensor:
    recipe = load_recipe("fast", blocks=8, **fields)
    done = decompose(weight, recipe)
    stack = Stack(done.spec)
    stack.set_level(level, done.tensors.__getitem__)
    return stack.dequantize()


def form(weight: torch.Tensor, moment: torch.Tensor | None = None, **fields: object) -> tuple:
    """Whether it is rotated, and how many outliers it has."""
    chosen = choose_form(weight, load_recipe("fast", **fields), QUICK, moment, None)
    return bool(chosen.rotation), len(chosen.outliers)


def test_a_gaussian_matrix_stays_as_it_is() -> None:
    assert form(gaussian(96, 256), torch.eye(256)) == (False, 0)


def test_without_text_errors_are_spread_over_all_inputs() -> None:
    """Columns that are large get large errors, unless they are rotated. In a trained model inputs
    are large where columns are: what one such input makes of the error is then twice as much."""
    sizes = torch.ones(256)
    sizes[::32] = 8.0
    weight = gaussian(96, 256) * sizes
    assert form(weight)[0]
    errors = {
        rotation: (dequantized(weight, 3, rotation=rotation) - weight).square().mean(0)
        for rotation in ("auto", "never")
    }
    assert errors["auto"].max() < 2 * errors["auto"].mean()
    assert errors["never"].max() > 5 * errors["never"].mean()


def test_what_the_recipe_forbids_is_not_taken() -> None:
    assert form(spiked(), outliers="never") == (True, 0)
    assert form(spiked(), rotation="never") == (False, 8)
    assert form(spiked(), rotation="never", outliers="never") == (False, 0)
    assert form(gaussian(96, 256), rotation="always") == (True, 0)


def test_outliers_of_the_inputs_are_kept_and_columns_left_as_they_are() -> None:
    """A few inputs a hundred times larger than others: scales of columns serve the others."""
    columns = torch.ones(256)
    columns[[5, 90]] = 100.0
    assert not form(gaussian(96, 256), torch.diag(columns.square()))[0]


@pytest.mark.parametrize("level", [2, 3, 4, 8])
@pytest.mark.parametrize("outliers", ["auto", "never"])
def test_large_weights_come_back(level: int, outliers: str) -> None:
    """As they are they are clipped; rotated the error is that of Gaussian weights, and where they
    are kept it is that of the other weights alone."""
    weight = spiked()
    plain = dequantized(weight, level, rotation="never", outliers="never")
    chosen = dequantized(weight, level, outliers=outliers)
    gaussian_error = {2: 0.13, 3: 0.04, 4: 0.012, 8: 1e-4}[level]  # of Lloyd and Max, and a little
    others = weight[weight.abs() < 9] if outliers == "auto" else weight
    error = float((chosen - weight).square().sum())
    assert error < gaussian_error * float(others.square().sum())
    assert error < float((plain - weight).square().sum())


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 33, 70])
def test_any_width_is_no_worse_than_nothing(columns: int) -> None:
    weight = gaussian(40, columns)
    weight[3, columns // 2] = 1e4
    for rotation in ("auto", "always", "never"):
        result = dequantized(weight, 8, rotation=rotation)
        assert torch.isfinite(result).all()
        assert (result - weight).square().sum() < 0.01 * weight.square().sum()


def test_a_second_moment_is_rotated_with_the_weight() -> None:
    """The error under E[x xᵀ] that a decomposition reports is that of its matrix."""
    weight, x = spiked(), gaussian(500, 256, seed=1) @ torch.diag(torch.logspace(-1, 1, 256))
    moment = x.T @ x / len(x)
    done = decompose(weight, load_recipe("fast", blocks=4, rotation="always"), moment=moment)
    stack = Stack(done.spec)
    for level in range(1, 5):
        stack.set_level(level, done.tensors.__getitem__)
        error = stack.dequantize() - weight
        expected = ((error @ moment) * error).sum(1)
        assert torch.allclose(done.row_errors[level - 1], expected, rtol=1e-3, atol=1e-4)
