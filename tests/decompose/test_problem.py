"""The normalised problem states the same errors as the matrix and the moment it was made from."""

import pytest
import torch
from torch import Tensor

from bitstack.decompose.problem import Space, make_space

from .problems import layer, stated


def test_errors_are_those_of_the_weight_under_the_moment() -> None:
    """E[((w − ŵ) x)²] = e H eᵀ."""
    weight, moment = layer()
    problem = stated(weight, 7.0 * moment)
    noise = torch.randn(problem.shape, generator=torch.Generator().manual_seed(1))
    near = problem.x * (1 + 0.1 * noise)
    error = weight - near / problem.space.scale
    expected = ((error @ (7.0 * moment)) * error).sum(1)
    rest = problem.x - near
    found = problem.mean_squares(rest, problem.times_moment(rest))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
    squares = ((weight @ (7.0 * moment)) * weight).sum(1)
    torch.testing.assert_close(problem.row_squares(), squares, rtol=1e-3, atol=0)


@pytest.mark.parametrize("columns", [1, 3, 40])
def test_a_rotation_changes_no_error(columns: int) -> None:
    weight, moment = layer(columns=columns)
    plain, rotated = (make_space(columns, moment, seed) for seed in (0, 1))
    ones = torch.ones(len(weight))
    squares = [space.problem(weight, ones).row_squares() for space in (plain, rotated)]
    torch.testing.assert_close(*squares, rtol=1e-3, atol=0)


def test_any_unit_of_inputs_and_weights_gives_the_same_problem() -> None:
    weight, moment = layer()
    rows = torch.rand(len(weight), generator=torch.Generator().manual_seed(2))
    one = stated(weight, moment, rows)
    other = stated(weight, 1e4 * moment, 30 * rows)
    assert float(one.space.moment.diagonal().mean()) == pytest.approx(1, rel=1e-5)
    assert float(one.row_weights.mean()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(other.space.moment, one.space.moment, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.row_weights, one.row_weights)
    torch.testing.assert_close(other.space.scale, one.space.scale, rtol=1e-4, atol=0)
    assert other.space.unit == pytest.approx(1e4 * one.space.unit, rel=1e-3)


def test_column_scales_follow_the_inputs() -> None:
    """s = sqrt(diag H) up to its mean: the columns of X differ as what they add to the output."""
    weight, moment = layer()
    problem = stated(weight, moment)
    root = moment.diagonal().sqrt()
    torch.testing.assert_close(problem.space.scale, root / root.mean() + 1e-3)
    torch.testing.assert_close(problem.x, weight * problem.space.scale)


@pytest.mark.parametrize("moment", [None, torch.zeros(40, 40)])
def test_without_moment_and_gradients_all_count_alike(moment: Tensor | None) -> None:
    weight, _ = layer()
    problem = stated(weight, moment, torch.zeros(len(weight)))
    torch.testing.assert_close(problem.space.moment, torch.ones(40))
    assert problem.row_weights.tolist() == [1.0] * len(weight)
    torch.testing.assert_close(problem.row_squares(), weight.square().sum(1), rtol=1e-4, atol=0)


def test_a_row_without_gradient_still_counts_a_little() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    problem = stated(torch.randn(4, 6), None, weights)
    torch.testing.assert_close(problem.row_weights, torch.tensor([0.01, 1.0, 2.98, 0.01]))


def test_a_diagonal_moment_stands_for_the_whole_matrix() -> None:
    x, values = torch.randn(3, 5), torch.rand(5)
    one, other = (Space(moment, torch.ones(5), 1.0) for moment in (values, torch.diag(values)))
    products = [space.problem(x, torch.ones(3)).image for space in (one, other)]
    torch.testing.assert_close(*products)
    assert all(torch.equal(space.problem(x, x[:, 0]).diagonal, values) for space in (one, other))
