"""Rounding to nearest in groups, and that no matrix, however odd, comes back worse than rounded."""

import pytest
import torch

from bitstack.decompose import decompose
from bitstack.decompose.rounding import rounding_bits, rounding_error
from bitstack.nn import Stack
from bitstack.recipe import Recipe, load_recipe

FAST = load_recipe("fast", calibration="none")


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def spiked(size: float, rows: int = 96, columns: int = 320) -> torch.Tensor:
    weight = gaussian(rows, columns)
    weight[7, 100] = weight[50, 3] = size
    return weight


def heavy(rows: int = 64, columns: int = 512) -> torch.Tensor:
    """Student's t with three degrees of freedom: a long tail without single outliers."""
    parts = gaussian(3 * rows, columns, seed=1).view(3, rows, columns)
    return gaussian(rows, columns) / parts.square().mean(0).sqrt()


def scaled(rows: int = 80, columns: int = 200) -> torch.Tensor:
    """Rows and columns of very different sizes."""
    sizes = torch.logspace(-2, 2, rows)[:, None] * torch.logspace(1, 0, columns)
    return gaussian(rows, columns) * sizes


LARGE = {
    "gaussian": gaussian(256, 384),
    "a weight of 50": spiked(50.0),
    "a weight of 1e4": spiked(1e4),
    "heavy tail": heavy(),
    "scaled": scaled(),
}
ODD = {
    "zeros": torch.zeros(16, 64),
    "one column": gaussian(64, 1),
    "one row": gaussian(1, 300),
    "few weights": gaussian(3, 5),
    "infinitesimal": gaussian(32, 48) * 1e-30,
    **{f"{n} columns": gaussian(48, n, seed=n) for n in (2, 3, 7, 31, 33, 63, 64, 65, 70)},
}


@pytest.mark.parametrize("recipe", [FAST, Recipe(calibration="none")], ids=["fast", "default"])
@pytest.mark.parametrize("name", LARGE)
def test_no_level_from_2_on_is_behind_at_equal_bytes(name: str, recipe: Recipe) -> None:
    """A bit for every weight divides a squared error by four."""
    weight = LARGE[name]
    done = decompose(weight, recipe)
    for level in range(2, done.spec.levels + 1):
        bits = 8 * done.spec.bytes()[level - 1] / weight.numel()
        extra = rounding_bits(*weight.shape, level) - bits
        assert done.relative_errors[level - 1] <= rounding_error(weight, level) * 4**extra


@pytest.mark.parametrize("recipe", [FAST, Recipe(calibration="none")], ids=["fast", "default"])
@pytest.mark.parametrize("name", ODD)
def test_everything_loaded_is_nearer_than_rounded(name: str, recipe: Recipe) -> None:
    check(ODD[name], recipe)


def test_very_wide() -> None:
    check(gaussian(4, 131_072), FAST)


def check(weight: torch.Tensor, recipe: Recipe) -> None:
    done = decompose(weight, recipe)
    stack = Stack(done.spec)
    size = max(float(weight.double().square().sum()), 1e-30)
    for level in range(1, done.spec.levels + 1):
        stack.set_level(level, done.tensors.__getitem__)
        assert torch.isfinite(stack.dequantize()).all()
    error = float((stack.dequantize() - weight).double().square().sum()) / size
    assert error <= 1.1 * rounding_error(weight, done.spec.levels) + 1e-6


def test_rounding_by_hand() -> None:
    """0 to 3 lie on the grid of two bits over 0 .. 3; 1.4 is rounded to 1."""
    assert rounding_error(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), 2) == 0
    assert rounding_error(torch.tensor([[0.0, 1.4, 3.0]]), 2) == pytest.approx(0.16 / 10.96, 1e-3)
    assert rounding_bits(2, 128, 4) == 4 + 4 * 20 / 256
