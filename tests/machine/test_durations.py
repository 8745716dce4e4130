"""Times are read as people write them, and written as they are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstack.machine.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20m", 1200),
        ("1h30m", 5400),
        ("1.5 h", 5400),
        ("90s", 90),
        ("2 H 5 min", 7500),
        (".5m", 30),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "20 days", "1h x", "-5m", "1,5h"])
def test_what_is_no_time(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (59.94, "59.9 s"), (250, "4 min 10 s"), (3840, "1 h 04 min")],
)
def test_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(60, 10**6))
def test_what_is_written_can_be_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=60)
