"""The loss along an order: stops, violations, and bad input."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from bitstack.container.manifest import read_manifest
from bitstack.errors import UserError
from bitstack.metrics.loss.order_check import OrderCheck, Stop, check_order


def test_stops_lead_from_the_floor_to_the_top(
    stacked: Callable[..., Path], text_file: Path
) -> None:
    folder = stacked("llama-gqa")
    check = check_order(folder, str(text_file), step=0.05, window=32, max_tokens=200)
    sizes = [stop.resident_bytes for stop in check.stops]
    budgets = read_manifest(folder).budgets
    assert (sizes[0], sizes[-1]) == (budgets.floor_bytes, budgets.total_bytes)
    assert all(0.95 * b >= a for a, b in pairwise(sizes[:-1]))  # the top may be near
    assert check.tokens == 199 - 199 // 32


def test_a_rise_is_a_violation() -> None:
    stops = [Stop(100, 3.0), Stop(110, 2.5), Stop(120, 2.6), Stop(130, 2.0)]
    check = OrderCheck(stops, 0.01, tokens=9, window=8, text="text.txt")
    assert check.violations == [(stops[1], stops[2])]
    assert check.to_json()["violations"] == [[110, 120]]


@pytest.mark.parametrize("step", [0.0, 1.0, -0.1])
def test_a_step_is_a_share(stacked: Callable[..., Path], text_file: Path, step: float) -> None:
    with pytest.raises(UserError, match="--step"):
        check_order(stacked("llama-gqa"), str(text_file), step=step)
