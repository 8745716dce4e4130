"""Matrices of more rows than a block: blocks that share scales are nearly as good as the whole."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bitstack.decompose import rows as rows_module
from bitstack.decompose.nested import Plan
from bitstack.decompose.rows import blocks_of, decompose_codes

from .problems import layer
from .test_nested import stored

PLANS = [Plan(8, (4,), joint_passes=1), Plan(4, search_sweeps=0, joint_passes=0)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK", 21 * 300)
    monkeypatch.setattr(rows_module, "_FEWEST", 1)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("rotation", [0, 1])
def test_blocks_are_nearly_as_good_as_all_rows_at_once(
    plan: Plan, rotation: int, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, moment = layer(1500, 21)
    weights = torch.rand(1500, generator=torch.Generator().manual_seed(0)) ** 2
    given = {"moment": moment, "row_weights": weights, "rotation": rotation}
    assert blocks_of(weight) == 10
    parts = decompose_codes(weight, plan, **given)
    monkeypatch.setattr(rows_module, "BLOCK", 1 << 20)
    assert blocks_of(weight) == 1
    whole = decompose_codes(weight, plan, **given)
    assert parts.mean_square == pytest.approx(whole.mean_square, rel=1e-3)
    for part, all_rows in zip(parts.row_errors, whole.row_errors, strict=True):
        assert float(part @ weights) < 1.25 * float(all_rows @ weights)
    if not rotation:
        for level in range(1, plan.blocks + 1):
            error = weight - stored(parts, level)
            expected = ((error @ moment) * error).sum(1)
            torch.testing.assert_close(parts.row_errors[level - 1], expected, rtol=2e-3, atol=1e-5)


def test_blocks_side_by_side_give_the_same_bytes(small_blocks: None) -> None:
    weight, moment = layer(900, 21)
    one = decompose_codes(weight, PLANS[0], moment=moment)
    with ThreadPoolExecutor(3) as pool:
        two = decompose_codes(weight, PLANS[0], moment=moment, map_blocks=pool.map)
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("row_weights", [torch.zeros(900), torch.eye(900)[0], None])
def test_rows_that_do_not_count(small_blocks: None, row_weights: torch.Tensor | None) -> None:
    weight, _ = layer(900, 21)
    weight[90:] *= 1e-3
    weight[450:] = 0
    done = decompose_codes(weight, PLANS[0], row_weights=row_weights)
    assert all(torch.isfinite(t).all() for t in done.tensors.values())
    left = (weight - stored(done, 8)).square().sum()
    assert left <= 0.01 * weight.square().sum()
