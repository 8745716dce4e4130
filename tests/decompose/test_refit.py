"""Refits are optimal: no error grows, and no small change of what was fitted helps."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.decompose.level import Level, first_scales
from bitstack.decompose.problem import Problem
from bitstack.decompose.refit import refit_columns, refit_rows, refit_table
from bitstack.decompose.split import split

from .problems import problem


def start(task: Problem, planes: int) -> Level:
    u, v = first_scales(task)
    level = Level(torch.zeros(task.shape, dtype=torch.uint8), u, v, torch.zeros(1), 0)
    for _ in range(planes):
        level = split(task, level)
    return level


def error(task: Problem, level: Level) -> float:
    return float((task.row_errors(level.values) * task.row_weights).sum())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), planes=st.integers(1, 5))
def test_every_refit_lowers_the_error(seed: int, planes: int) -> None:
    task = problem(seed=seed)
    level = start(task, planes)
    for step in (refit_table, refit_rows, refit_columns):
        better = step(task, level, task.moment)
        assert error(task, better) <= error(task, level) * (1 + 1e-4)
        level = better


@pytest.mark.parametrize("part", ["u", "v", "table"])
def test_a_refit_is_a_minimum(part: str) -> None:
    task = problem()
    level = start(task, 2)
    step = {"u": refit_rows, "v": refit_columns, "table": refit_table}[part]
    level = step(task, level, task.moment)
    least = error(task, level)
    for index in (0, 1, 3):
        for change in (0.98, 1.02):
            moved = getattr(level, part).clone()
            moved[index] *= change
            assert error(task, replace(level, **{part: moved})) > least * (1 - 1e-4)
