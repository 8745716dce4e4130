"""Values and ticks lie inside their axes, and labels say where."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bitstack.metrics.report.axis import BytesAxis, LinearAxis, short_bytes

SIZES = st.lists(st.integers(1_000, 2**42), min_size=1, max_size=8)
VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(SIZES)
def test_bytes_lie_inside_their_axis_and_so_do_its_ticks(sizes: list[int]) -> None:
    axis = BytesAxis.over(sizes)
    for size in sizes:
        assert 0 < axis.place(size) < 100
    places = [tick.place for tick in axis.ticks]
    assert places == sorted(set(places))
    assert all(0 <= place <= 100 for place in places)
    assert len(places) <= 8
    assert len({tick.label for tick in axis.ticks}) == len(places)


def test_equal_factors_are_equal_steps() -> None:
    axis = BytesAxis.over([2**20, 2**24])
    a, b, c = (axis.place(2**power) for power in (20, 22, 24))
    assert b - a == pytest.approx(c - b)
    assert [tick.label for tick in axis.ticks] == [f"{2**i} MiB" for i in range(5)]


@given(VALUES, st.integers(3, 9), st.floats(0, 0.2))
def test_values_lie_inside_their_axis(values: list[float], most: int, room: float) -> None:
    assume(max(values) == min(values) or max(values) - min(values) > 1e-6 * max(map(abs, values)))
    axis = LinearAxis.over(values, most=most, room=room)
    assert all(-1e-6 <= axis.place(value) <= 100 + 1e-6 for value in values)
    ticks = axis.ticks
    assert ticks[0].place == pytest.approx(0)
    assert ticks[-1].place == pytest.approx(100)
    assert len(ticks) <= most + 3
    assert len({tick.label for tick in ticks}) == len(ticks)


@given(VALUES)
def test_labels_say_what_stands_there(values: list[float]) -> None:
    assume(max(values) - min(values) > 1e-3)
    axis = LinearAxis.over(values)
    for tick in axis.ticks:
        assert axis.place(float(tick.label)) == pytest.approx(tick.place, abs=1e-4)


def test_short_bytes() -> None:
    words = [short_bytes(size) for size in (512, 1024, 1.5 * 2**20, 2**30, 2**50)]
    assert words == ["512 B", "1 KiB", "1.5 MiB", "1 GiB", "1024 TiB"]
    assert all(re.fullmatch(r"[\d.]+ \w+", word) for word in words)
