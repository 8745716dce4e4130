"""Large exchanges of planes go a few stacks at a time, and a failure leaves a whole model."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pico
from bitstack import UserError, load
from bitstack.live import swap

IDS = torch.arange(40)[None] * 7 % pico.VOCABULARY


@pytest.fixture(scope="module")
def container(stacked: Callable[..., Path]) -> Path:
    return stacked("llama-gqa", calibration="none")


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(IDS).logits


def test_levels_of_one_chain_change_in_one_swap(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share their planes, so the limit on exchanged planes does not part them."""
    monkeypatch.setattr(swap, "EXCHANGE_BYTES", 1)
    resident = load(container, level=1).bitstack
    levels = [4] * len(resident.levels)
    assert list(swap._stages(resident, levels)) == [levels]
    assert list(swap._stages(resident, resident.levels)) == []


def test_planes_are_exchanged_a_few_at_a_time(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read before the swap stays within the limit, and so does what is left half done."""
    model = load(container)
    resident = model.bitstack
    tops, levels = list(resident.levels), [3] * len(resident.levels)
    sizes = [s.spec.bytes()[2] for s in resident.stacks]
    limit = max(sizes) + 1
    monkeypatch.setattr(swap, "EXCHANGE_BYTES", limit)
    stages = list(swap._stages(resident, levels))
    assert stages[-1] == levels
    assert len(stages) > 2
    for before, after in pairwise([tops, *stages]):
        changed = [size for size, a, b in zip(sizes, before, after, strict=True) if a != b]
        assert 0 < sum(changed) <= limit
    failing = interrupt_after(2, swap, "_apply", monkeypatch)
    with pytest.raises(UserError, match=r"gone; the model runs on with"):
        swap.move(resident, levels)
    assert failing == [2]
    assert resident.levels == stages[0]
    assert torch.isfinite(logits(model)).all()
    swap.move(resident, levels)
    assert resident.levels == levels
    assert torch.equal(logits(model), logits(load(container, level=3)))


def interrupt_after(
    count: int, module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """The `count`-th call of `module.name` fails, once; returns the number of calls."""
    original, calls = getattr(module, name), [0]

    def failing(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            raise UserError("gone")
        return original(*args)

    monkeypatch.setattr(module, name, failing)
    return calls
