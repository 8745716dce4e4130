"""Refits go towards the optimum: no error grows, and many steps end where no small change helps."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.decompose.level import Level, first_columns, first_rows
from bitstack.decompose.problem import Problem
from bitstack.decompose.refit import (
    refit,
    refit_columns,
    refit_rows,
    refit_table,
    refit_uncorrelated,
)
from bitstack.decompose.shared import Shared
from bitstack.decompose.split import split

from .problems import problem, stated

STEPS = {"u": refit_rows, "v": refit_columns, "table": refit_table}


def start(task: Problem, planes: int) -> Level:
    v = first_columns(task)
    code = torch.zeros(task.shape, dtype=torch.uint8)
    level = Level(code, first_rows(task, v), v, torch.zeros(1), 0)
    for _ in range(planes):
        level = split(task, level, Shared())
    return level


def error(task: Problem, level: Level, damping: float = 0.0) -> float:
    """The error under M + damping · I."""
    rest = level.error(task)
    image = task.times_moment(rest) + damping * rest
    return float((image * rest).sum(1) @ task.row_weights)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000), planes=st.integers(1, 5), damping=st.sampled_from([0.0, 0.3]),
    whole=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_every_refit_lowers_the_error(
    seed: int, planes: int, damping: float, whole: bool, dtype: torch.dtype
) -> None:
    """Also where moves are multiplied in bf16, as some processors do it faster."""
    task = problem(seed=seed) if whole else stated(problem(seed=seed).x)
    level = start(task, planes).with_product(task)
    for step in STEPS.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bitstack.decompose.problem.product_dtype", lambda _: dtype)
            better = step(task, level, damping)
        assert error(task, better, damping) <= error(task, level, damping) * (1 + 1e-4)
        assert better.product is not None
        expected = task.times_moment(better.error(task))
        if dtype == torch.float32:
            torch.testing.assert_close(better.product, expected, rtol=1e-3, atol=1e-4)
        assert (better.product - expected).norm() <= 0.01 * expected.norm() + 1e-4
        level = better


@pytest.mark.parametrize("part", STEPS)
def test_steps_end_in_a_minimum(part: str) -> None:
    task = problem()
    level = start(task, 2).with_product(task)
    for _ in range(1 if part == "u" else 60):
        level = STEPS[part](task, level, 0.0)
    least = error(task, level)
    for index in (0, 1, 3):
        for change in (0.97, 1.03):
            moved = getattr(level, part).clone()
            moved[index] *= change
            assert error(task, replace(level, **{part: moved})) > least * (1 - 1e-4)


def test_an_uncorrelated_refit_is_nearer_without_the_moment() -> None:
    task = problem()
    level = start(task, 3)
    after = refit_uncorrelated(task, level, Shared())
    before, now = (float(one.error(task).square().sum()) for one in (level, after))
    assert now < before
    assert after.product is None


def test_rows_take_the_scales_that_were_learned() -> None:
    task = problem()
    some = Problem(task.space, task.x[:5], task.row_weights[:5])
    shared = Shared()
    first = refit(task, start(task, 2), 0.1, shared)
    fresh = Shared(shared.learned)
    taken = refit(some, replace(start(some, 2), code=first.code[:5]), 0.1, fresh)
    assert torch.equal(taken.table, first.table)
    assert torch.equal(taken.v, first.v)
    assert error(some, taken, 0.1) < error(some, replace(taken, u=1.1 * taken.u), 0.1)
