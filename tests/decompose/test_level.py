"""A level holds what a reader will see: codes of its own planes, scales that fit fp16."""

import pytest
import torch

from bitstack.decompose.level import Level, first_columns, first_rows
from bitstack.decompose.problem import Problem

from .problems import layer, problem, stated
from .test_refit import start


def level(planes: int = 2) -> Level:
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(0, 16, (5, 6), generator=generator, dtype=torch.uint8)
    u, v, table = (torch.randn(n, generator=generator) for n in (5, 6, 2**planes))
    return Level(code, u, v, table, planes)


def as_stored(task: Problem, one: Level) -> Level:
    return one.with_scales(task.space, one.stored_scales(task.space, one.balance(task.space)))


def test_values_by_their_definition() -> None:
    one = level()
    for r in range(5):
        for c in range(6):
            code = int(one.code[r, c]) % 4  # two planes: the low two bits
            expected = one.u[r] * one.table[code] * one.v[c]
            assert one.values()[r, c] == pytest.approx(float(expected))


def test_a_product_is_that_of_the_error() -> None:
    task = problem()
    one = start(task, 2).with_product(task)
    error = task.x - one.values()
    assert one.product is not None
    torch.testing.assert_close(one.product, error @ task.space.moment)
    assert one.with_product(task) is one
    expected = (error @ task.space.moment * error).sum(1) * task.space.unit
    torch.testing.assert_close(one.row_errors(task), expected)


def test_a_level_survives_storage() -> None:
    task = problem()
    built = start(task, 3)
    stored = as_stored(task, built)
    assert torch.allclose(stored.values(), built.values(), rtol=4e-3, atol=1e-5)
    again = as_stored(task, stored)
    assert torch.allclose(again.values(), stored.values(), rtol=2e-3)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_stored_scales_are_balanced_and_those_of_the_weight(size: float) -> None:
    """T has a largest value of one and v a mean size of one, whatever the matrix; and without the
    column scale of X the values are those of W."""
    weight, moment = layer()
    task = stated(size * weight, moment)
    built = start(task, 4)
    u, v, table = built.stored_scales(task.space, built.balance(task.space))
    assert {u.dtype, v.dtype, table.dtype} == {torch.float16}
    assert float(table.abs().max()) == 1
    assert float(v.float().abs().mean()) == pytest.approx(1, rel=1e-2)
    rebuilt = u.float().unsqueeze(1) * table.float()[built.codes().int()] * v.float()
    expected = built.values() / task.space.scale
    assert torch.allclose(rebuilt, expected, rtol=4e-3, atol=1e-3 * float(expected.abs().max()))


def test_numbers_that_fp16_cannot_hold_stay_finite() -> None:
    task = stated(torch.ones(2, 3))
    huge = Level(
        torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([1e9, float("nan")]), torch.ones(3),
        torch.tensor([1.0, 1e-9]), 1,
    )  # fmt: skip
    u, _, table = huge.stored_scales(task.space, (1.0, 1.0))
    assert u.tolist() == [65504.0, 0.0]
    assert table.tolist() == [1.0, 0.0]


def test_a_row_beyond_fp16_is_held_by_the_table() -> None:
    task = stated(torch.ones(2, 3))
    large = Level(
        torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([1e6, 1.0]), torch.ones(3),
        torch.tensor([1e-2, 1.0]), 1,
    )  # fmt: skip
    assert torch.allclose(as_stored(task, large).values()[0], large.values()[0], rtol=1e-3)


def test_first_scales_are_the_rank_one_fit_of_magnitudes() -> None:
    task = problem()
    v = first_columns(task)
    u = first_rows(task, v)
    left, values, right = torch.linalg.svd(task.x.abs(), full_matrices=False)
    best = values[0] * left[:, :1] * right[:1]
    torch.testing.assert_close(u.unsqueeze(1) * v, best, rtol=1e-2, atol=1e-3)
    assert float(v.square().mean()) == pytest.approx(1, rel=1e-3)
    assert (u > 0).all()
    assert (v > 0).all()


def test_a_dead_row_keeps_a_tiny_scale() -> None:
    weight = layer()[0]
    weight[3] = 0
    task = stated(weight)
    u = first_rows(task, first_columns(task))
    assert 0 < float(u[3]) < 1e-5 * float(u.max())
