"""The normalised problem states the same errors as the matrix and the moment it was made from."""

import pytest
import torch
from torch import Tensor

from bitstack.decompose import problem as problem_module
from bitstack.decompose.problem import Problem, diagonal, make_problem, times

from .problems import layer


def approximation(problem: Problem) -> Tensor:
    """Something near X, fp32 [m, n]."""
    noise = torch.randn(problem.shape, generator=torch.Generator().manual_seed(1))
    return problem.x() * (1 + 0.1 * noise)


@pytest.mark.parametrize("panel", [1 << 20, 40 * 5])
def test_row_errors_are_those_of_the_weight_under_the_moment(
    panel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E[((w − ŵ) x)²] = e H eᵀ, whole or in panels of rows."""
    monkeypatch.setattr(problem_module, "_PANEL", panel)
    weight, moment = layer()
    problem = make_problem(weight, 7.0 * moment, None)
    near = approximation(problem)
    error = weight - near / problem.scale
    expected = ((error @ (7.0 * moment)) * error).sum(1)
    torch.testing.assert_close(problem.row_errors(lambda r: near[r]), expected, rtol=1e-3, atol=0)
    squares = ((weight @ (7.0 * moment)) * weight).sum(1)
    torch.testing.assert_close(problem.row_squares(), squares, rtol=1e-3, atol=0)


def test_any_unit_of_inputs_and_weights_gives_the_same_problem() -> None:
    weight, moment = layer()
    rows = torch.rand(len(weight), generator=torch.Generator().manual_seed(2))
    one = make_problem(weight, moment, rows)
    other = make_problem(weight, 1e4 * moment, 30 * rows)
    assert float(one.moment.diagonal().mean()) == pytest.approx(1, rel=1e-5)
    assert float(one.row_weights.mean()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(other.moment, one.moment, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.row_weights, one.row_weights)
    torch.testing.assert_close(other.scale, one.scale, rtol=1e-4, atol=0)
    assert other.unit == pytest.approx(1e4 * one.unit, rel=1e-3)


def test_column_scales_follow_the_inputs() -> None:
    """s = sqrt(diag H) up to its mean: the columns of X differ as what they add to the output."""
    weight, moment = layer()
    problem = make_problem(weight, moment, None)
    root = moment.diagonal().sqrt()
    torch.testing.assert_close(problem.scale, root / root.mean() + 1e-3)
    torch.testing.assert_close(problem.x(), weight * problem.scale)


@pytest.mark.parametrize("moment", [None, torch.zeros(40, 40)])
def test_without_moment_and_gradients_all_count_alike(moment: Tensor | None) -> None:
    weight, _ = layer()
    problem = make_problem(weight, moment, torch.zeros(len(weight)))
    torch.testing.assert_close(problem.moment, torch.ones(40))
    assert problem.row_weights.tolist() == [1.0] * len(weight)
    torch.testing.assert_close(problem.row_squares(), weight.square().sum(1), rtol=1e-4, atol=0)


def test_a_row_without_gradient_still_counts_a_little() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    problem = make_problem(torch.randn(4, 6), None, weights)
    torch.testing.assert_close(problem.row_weights, torch.tensor([0.01, 1.0, 2.98, 0.01]))


@pytest.mark.parametrize("whole", [True, False])
def test_damping_adds_to_the_diagonal_of_a_copy(whole: bool) -> None:
    weight, moment = layer()
    problem = make_problem(weight, moment if whole else None, None)
    before = problem.moment.clone()
    damped = problem.damped_hessian(0.3)
    torch.testing.assert_close(diagonal(damped), diagonal(before) + 0.3)
    assert torch.equal(problem.moment, before)
    if whole:
        off = ~torch.eye(40, dtype=torch.bool)
        assert torch.equal(damped[off], before[off])


def test_a_diagonal_moment_stands_for_the_whole_matrix() -> None:
    x, values = torch.randn(3, 5), torch.rand(5)
    torch.testing.assert_close(times(x, values), times(x, torch.diag(values)))


def test_panels_cover_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_module, "_PANEL", 40 * 7 + 3)
    problem = make_problem(*layer(), None)
    rows = [row for panel in problem.panels() for row in range(48)[panel]]
    assert rows == list(range(48))
    assert len(list(problem.panels())) == 7
    monkeypatch.setattr(problem_module, "_PANEL", 1)  # less than a row
    assert len(list(problem.panels())) == 48
