"""Where the orders of a run are tried: at sizes all along them, or at the recipe's targets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitstack.container.manifest import read_manifest
from bitstack.ordering import greedy

Folder = Callable[..., Path]
FEW: dict[str, Any] = {
    "num_samples": 3,
    "seq_len": 24,
    "order_samples": 1,
    "blocks": 4,
    "tune_steps": 0,
}


@pytest.mark.parametrize("targets", [[], [2.6, 4.0]])
def test_orders_are_tried_where_they_matter(
    pico_model: Folder, run: Folder, monkeypatch: pytest.MonkeyPatch, targets: list[float]
) -> None:
    seen: list[list[list[list[int]]]] = []

    def last(paths: list[list[list[int]]], measure: greedy.Measure, *, show: bool) -> int:
        seen.append(paths)
        assert measure(paths[-1][-1]) >= 0
        return len(paths) - 1

    monkeypatch.setattr(greedy, "best_path", last)
    budgets = read_manifest(run(pico_model("llama-gqa"), **FEW, targets=targets)).budgets
    taken = seen[0][-1]  # its order is the container's
    assert len(taken) == (len(targets) or greedy.TRIED_SIZES)
    weights = sum(budgets.weights)
    sizes = [budgets.resident_bytes(levels) for levels in taken]
    assert [budgets.levels(size)[0] for size in sizes] == taken
    assert sizes == sorted(sizes)
    for bits, levels in zip(targets, taken, strict=False):
        size = budgets.fixed_bytes + int(bits * weights / 8)
        assert levels == budgets.levels(size)[0]
