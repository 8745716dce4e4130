"""Coordinate descent: the weighted error never grows, and C++ chooses what torch chooses."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.decompose import search as search_module
from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem
from bitstack.decompose.search import descend
from bitstack.kernels import native

from .problems import problem, stated
from .test_refit import error, start


def at(task: Problem, planes: int) -> list[Level]:
    levels = [start(task, j) for j in range(1, planes + 1)]
    return [replace(level, code=levels[-1].code).with_product(task) for level in levels]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000), kept=st.integers(0, 2), lowest=st.integers(3, 5),
    whole=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_weighted_error_never_grows(
    seed: int, kept: int, lowest: int, whole: bool, dtype: torch.dtype
) -> None:
    """Also where only a window of the lowest level's codes is tried, and in bf16."""
    task = problem(columns=150, seed=seed)  # two sections, of two panels and of one
    task = task if whole else stated(task.x)
    levels = at(task, lowest + 2)
    weights = [0.0] * (lowest - 1) + [0.5, 0.0, 2.0]
    dampings = [0.1] * len(levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "_SECTION", 128)
        patch.setattr("bitstack.decompose.problem.product_dtype", lambda _: dtype)
        after = descend(task, levels, dampings, weights, kept)
    before, now = (
        sum(w * error(task, one, 0.1) for w, one in zip(weights, some, strict=True))
        for some in (levels, after)
    )
    assert now <= before * (1 + 1e-5)
    low = 2**kept - 1
    assert torch.equal(after[-1].code & low, levels[-1].code & low)
    for one, weight in zip(after, weights, strict=True):
        assert torch.equal(one.codes(), after[-1].code & (2**one.planes - 1))
        if not weight:
            continue
        assert one.product is not None
        expected = task.times_moment(one.error(task))
        if dtype == torch.float32:
            torch.testing.assert_close(one.product, expected, rtol=1e-3, atol=1e-3)
        assert (one.product - expected).norm() <= 0.01 * expected.norm() + 1e-3


@pytest.mark.parametrize("planes", [2, 4])
def test_it_ends_where_no_single_change_helps(planes: int) -> None:
    """With 16 codes only a window is tried, and for one level that is enough."""
    task = problem(rows=4, columns=6)
    levels = at(task, planes)[-1:]
    for _ in range(50):
        levels = descend(task, levels, [0.0], [1.0])
    least = error(task, levels[-1])
    for r in range(4):
        for c in range(6):
            for code in range(2**planes):
                moved = levels[-1].code.clone()
                moved[r, c] = code
                assert error(task, replace(levels[-1], code=moved)) >= least * (1 - 1e-4)


@pytest.mark.skipif(native.compiled() is None, reason="the native library was not built")
@pytest.mark.parametrize("kept", [0, 2])
@pytest.mark.parametrize("lowest", [1, 4])
def test_native_chooses_like_torch(monkeypatch: pytest.MonkeyPatch, kept: int, lowest: int) -> None:
    task = problem(rows=131, columns=70)
    levels = at(task, 6)[max(lowest, kept + 1) - 1 :]
    dampings = [0.3, 0.1, 0.03, 0.01, 0.01, 0.01][: len(levels)]
    weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0][: len(levels)]
    fast = descend(task, levels, dampings, weights, kept)
    monkeypatch.setattr(search_module, "is_native", lambda code: False)
    slow = descend(task, levels, dampings, weights, kept)
    # Ties and the last bit of a sum may fall either way; nothing else may.
    differ = float((fast[-1].code != slow[-1].code).float().mean())
    assert differ < 0.004
    assert error(task, fast[-1]) == pytest.approx(error(task, slow[-1]), rel=1e-3)
