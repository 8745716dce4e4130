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


def cut(task: Problem, level: Level, planes: int = 1) -> Level:
    return split(task, level, planes, Shared())[-1]


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
    levels = split(task, start(task, 0), 5, Shared())
    for below, above in pairwise(levels):
        assert torch.equal(above.codes() & (2**below.planes - 1), below.codes())
        assert above.codes().unique().numel() == 2**above.planes
        assert error(task, above) < 0.6 * error(task, below)


def test_planes_at_once_are_those_one_by_one() -> None:
    """Cells that exist are cut like cells that are just made."""
    task = problem()
    at_once = split(task, start(task, 0), 4, Shared())
    level = start(task, 0)
    for expected in at_once:
        level = cut(task, level)
        differ = float((level.codes() != expected.codes()).float().mean())
        assert differ < 0.02  # the bins of later cuts lie elsewhere
        torch.testing.assert_close(level.table, expected.table, rtol=2e-2, atol=1e-2)


def test_other_rows_are_cut_where_it_was_learned() -> None:
    task, shared = problem(), Shared()
    level = split(task, start(task, 0), 3, shared)[-1]
    some = Problem(task.space, task.x[7:9], task.row_weights[7:9])
    zero = start(task, 0)
    rows = Level(zero.code[7:9], zero.u[7:9], zero.v, zero.table, 0)
    assert torch.equal(split(some, rows, 3, Shared(shared.learned))[-1].code, level.code[7:9])


def test_an_empty_half_keeps_a_finite_value() -> None:
    """All weights alike: no cut tells them apart."""
    task, level = flat(torch.full((4, 5), 0.25))
    level = Level(level.code, level.u, level.v, torch.tensor([0.125]), 0)
    for one in split(task, level, 8, Shared()):
        assert torch.isfinite(one.table).all()
        assert torch.allclose(one.values(), task.x, rtol=1e-3)


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
