"""Coordinate descent: the weighted error never grows, and C++ chooses what torch chooses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.decompose.problem import Problem
from bitstack.decompose.search import descend
from bitstack.kernels import native

from .problems import problem
from .test_refit import error, start


def at(task: Problem, planes: int) -> list:
    levels = [start(task, j) for j in range(1, planes + 1)]
    assert all((a.codes() == levels[-1].code & (2**a.planes - 1)).all() for a in levels)
    return levels


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), kept=st.integers(0, 2))
def test_the_weighted_error_never_grows(seed: int, kept: int) -> None:
    task = problem(columns=70, seed=seed)  # more than a panel
    levels = at(task, 3)
    weights = [0.5, 0.0, 2.0]
    after = descend(task, levels, [task.moment] * 3, weights, kept)
    before = sum(w * error(task, level) for w, level in zip(weights, levels, strict=True))
    now = sum(w * error(task, level) for w, level in zip(weights, after, strict=True))
    assert now <= before * (1 + 1e-5)
    low = 2**kept - 1
    assert torch.equal(after[-1].code & low, levels[-1].code & low)
    assert all((a.codes() == after[-1].code & (2**a.planes - 1)).all() for a in after)


def test_it_ends_where_no_single_change_helps() -> None:
    task = problem(rows=4, columns=6)
    levels = at(task, 2)
    for _ in range(50):
        levels = descend(task, levels, [task.moment] * 2, [0.0, 1.0])
    least = error(task, levels[-1])
    for r in range(4):
        for c in range(6):
            for code in range(4):
                moved = levels[-1].code.clone()
                moved[r, c] = code
                changed = type(levels[-1])(moved, levels[-1].u, levels[-1].v, levels[-1].table, 2)
                assert error(task, changed) >= least * (1 - 1e-4)


@pytest.mark.skipif(not native.has_descend(), reason="the native library was not built")
@pytest.mark.parametrize("kept", [0, 2])
def test_native_chooses_like_torch(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    task = problem(rows=131, columns=70)
    levels = at(task, 4)
    hessians = [task.damped_hessian(d) for d in (0.3, 0.1, 0.03, 0.01)]
    fast = descend(task, levels, hessians, [1.0, 2.0, 3.0, 4.0], kept)
    monkeypatch.setattr(native, "has_descend", lambda: False)
    slow = descend(task, levels, hessians, [1.0, 2.0, 3.0, 4.0], kept)
    # Ties and the last bit of a sum may fall either way; nothing else may.
    differ = float((fast[-1].code != slow[-1].code).float().mean())
    assert differ < 0.002
    assert error(task, fast[-1]) == pytest.approx(error(task, slow[-1]), rel=1e-3)
