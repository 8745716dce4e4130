"""The next plane: the best cut of every cell, found by trying all of them."""

from itertools import pairwise

import pytest
import torch

from bitstack.decompose import split as split_module
from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem, make_problem
from bitstack.decompose.split import split

from .problems import layer, problem
from .test_refit import error, start


def flat(weight: torch.Tensor, planes: int = 0) -> tuple[Problem, Level]:
    """A problem without second moment, and a level of scales one, so that Z is the weight."""
    task = make_problem(weight, None, None)
    unit = torch.ones(weight.shape[0]), torch.ones(weight.shape[1])
    code = torch.zeros(weight.shape, dtype=torch.uint8)
    return task, Level(code, unit[0], unit[1] / task.scale, torch.zeros(2**planes), planes)


def test_two_clusters_get_a_code_each() -> None:
    weight = torch.tensor([[-2.0, -1.8, 1.0], [1.2, -2.2, 0.8]])
    task, level = flat(weight)
    after = split(task, level)
    assert after.planes == 1
    assert torch.equal(after.code, (weight > 0).to(torch.uint8))
    torch.testing.assert_close(after.table, torch.tensor([-2.0, 1.0]), rtol=1e-2, atol=0)
    assert torch.equal(after.u, level.u)
    assert torch.equal(after.v, level.v)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_cut_has_a_smaller_error(seed: int) -> None:
    """All weights in one cell, of rows that count unlike."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 8, generator=generator)
    rows = torch.rand(6, generator=generator) + 0.1
    task, level = flat(weight)
    task = Problem(task.weight, task.moment, rows, task.scale, task.unit)
    after = split(task, level)
    z, mass = weight.flatten(), rows.repeat_interleave(8)

    def cost(low: torch.Tensor) -> float:
        halves = [half for half in (low, ~low) if half.any()]
        means = [(z[half] * mass[half]).sum() / mass[half].sum() for half in halves]
        pairs = zip(halves, means, strict=True)
        return float(sum((mass[half] * (z[half] - mean).square()).sum() for half, mean in pairs))

    best = min(cost(z <= border) for border in z)
    # Within a bin of the histogram nothing is told apart.
    assert cost(after.code.flatten() == 0) <= best * 1.01


def test_every_cell_is_cut_by_itself_and_keeps_its_lower_planes() -> None:
    task = problem()
    levels = [start(task, planes) for planes in range(5)]
    for below, above in pairwise(levels):
        assert torch.equal(above.codes() & (2**below.planes - 1), below.codes())
        assert above.codes().unique().numel() == 2**above.planes
        assert error(task, above) < 0.6 * error(task, below)


def test_rows_in_panels_are_cut_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitstack.decompose import problem as problem_module

    task = problem()
    whole = start(task, 3)
    monkeypatch.setattr(problem_module, "_PANEL", 40 * 7)
    parts = start(task, 3)
    assert float((whole.code != parts.code).float().mean()) < 0.01
    torch.testing.assert_close(parts.table, whole.table, rtol=1e-2, atol=1e-3)


def test_an_empty_half_keeps_a_finite_value() -> None:
    """All weights alike: no cut tells them apart."""
    task, level = flat(torch.full((4, 5), 0.25))
    level = Level(level.code, level.u, level.v, torch.tensor([0.125]), 0)
    for _ in range(3):
        level = split(task, level)
        assert torch.isfinite(level.table).all()
    assert torch.allclose(level.values(), task.x(), rtol=1e-3)


def test_a_row_almost_dead_does_not_stretch_the_table() -> None:
    """Its quotients are large and count for next to nothing."""
    weight = layer()[0]
    task, level = flat(weight)
    level.u[3] = 1e-7
    low, high = split_module._histogram_range(task, level)
    root_mean_square = float(weight.square().mean().sqrt())
    assert 0 < -low <= 8.2 * root_mean_square  # its own quotients are ten million times as large
    assert 0 < high <= 8.2 * root_mean_square
    assert split(task, level).table.abs().max() < weight.abs().max()
