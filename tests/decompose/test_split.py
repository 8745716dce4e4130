"""More planes: the best cut of every cell, found by trying all of them."""

from itertools import pairwise

import pytest
import torch

from bitstack.decompose import split as split_module
from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem
from bitstack.decompose.shared import Shared
from bitstack.decompose.split import split

from .problems import layer, problem, stated
from .test_refit import error, start


def flat(weight: torch.Tensor, planes: int = 0) -> tuple[Problem, Level]:
    """A problem without second moment, and a level of scales one, so that Z is the weight."""
    task = stated(weight)
    unit = torch.ones(weight.shape[0]), torch.ones(weight.shape[1])
    code = torch.zeros(weight.shape, dtype=torch.uint8)
    v = unit[1] * task.space.scale
    return task, Level(code, unit[0], v, torch.zeros(2**planes), planes)


def cut(task: Problem, level: Level) -> Level:
    return split(task, level, Shared())


def test_two_clusters_get_a_code_each() -> None:
    weight = torch.tensor([[-2.0, -1.8, 1.0], [1.2, -2.2, 0.8]])
    task, level = flat(weight)
    after = cut(task, level)
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
    after = cut(Problem(task.space, task.x, rows), level)
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


def test_other_rows_are_cut_where_it_was_learned() -> None:
    task, shared = problem(), Shared()
    below = start(task, 2)
    level = split(task, below, shared)
    some = Problem(task.space, task.x[7:9], task.row_weights[7:9])
    rows = Level(below.code[7:9], below.u[7:9], below.v, below.table, 2)
    taken = split(some, rows, Shared(shared.learned))
    assert torch.equal(taken.code, level.code[7:9])
    assert torch.equal(taken.table, level.table)


def test_an_empty_half_keeps_a_finite_value() -> None:
    """All weights alike: no cut tells them apart."""
    task, level = flat(torch.full((4, 5), 0.25))
    level = Level(level.code, level.u, level.v, torch.tensor([0.125]), 0)
    for _ in range(8):
        level = cut(task, level)
        assert torch.isfinite(level.table).all()
        assert torch.allclose(level.values(), task.x, rtol=1e-3)


def test_a_row_almost_dead_does_not_stretch_the_table() -> None:
    """Its quotients are ten million times as large and count for next to nothing."""
    weight = layer()[0]
    task, level = flat(weight)
    level.u[3] = 1e-7
    low, high = split_module._range(*split_module._unscaled(task, level))
    root_mean_square = float(weight.square().mean().sqrt())
    assert 0 < -low <= 1.03 * split_module._SPREAD * root_mean_square
    assert 0 < high <= 1.03 * split_module._SPREAD * root_mean_square
    assert cut(task, level).table.abs().max() < weight.abs().max()
