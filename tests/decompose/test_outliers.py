"""Outliers: the weights that are worth more than their bytes, and no others."""

import pytest
import torch

from bitstack.decompose.outliers import find_outliers, split_off
from bitstack.decompose.problem import mean_one


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def found(weight: torch.Tensor, moment=None, row_weights=None) -> list[int]:  # type: ignore[no-untyped-def]
    squares = None if moment is None else moment.diagonal()
    return find_outliers(weight, squares, mean_one(row_weights, weight)).tolist()


def test_a_gaussian_matrix_has_none() -> None:
    assert found(gaussian(64, 256)) == []


def test_large_weights_are_found_where_they_are() -> None:
    weight, positions = gaussian(64, 256), [3, 300, 5000, 64 * 256 - 1]
    weight.view(-1)[positions] = torch.tensor([50.0, -30.0, 20.0, 9.0])
    assert found(weight) == positions


def test_large_ones_do_not_hide_smaller_ones() -> None:
    """Beside a weight of 1e4 one of 30 looks small, until the first is taken away."""
    weight = gaussian(64, 256)
    weight[5, 7], weight[9, 11] = 1e4, 30.0
    assert found(weight) == [5 * 256 + 7, 9 * 256 + 11]


def test_inputs_and_rows_count() -> None:
    """A weight of usual size matters where its input or its output is far larger than others."""
    weight = gaussian(64, 256)
    weight[3, 8] = 1.0
    moment, row_weights = torch.ones(256), torch.ones(64)
    moment[8], row_weights[3] = 300.0, 300.0
    at = found(weight, torch.diag(moment), row_weights)
    assert 3 * 256 + 8 in at
    assert all(position // 256 == 3 or position % 256 == 8 for position in at)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_any_scale(scale: float) -> None:
    weight = gaussian(16, 32) * scale
    assert found(weight) == []


def test_a_wide_distribution_keeps_few() -> None:
    """Where every fortieth weight stands out, keeping all of them costs more than it brings."""
    weight = gaussian(64, 256)
    weight[:, ::43] *= 100
    assert 0 < len(found(weight)) < 0.01 * weight.numel()


def test_values_and_rest_add_up() -> None:
    weight, positions = gaussian(8, 16), torch.tensor([0, 17, 127])
    weight[1, 1] = 1e6  # beyond fp16
    values, rest = split_off(weight, positions)
    assert values.dtype == torch.float16
    sums = rest.flatten()[positions] + values.float()
    assert torch.allclose(sums, weight.flatten()[positions])
    assert values[1] == 65504
    assert torch.equal(rest[2:7], weight[2:7])
