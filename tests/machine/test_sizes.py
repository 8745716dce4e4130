"""Sizes are read exactly, and read again as they were shown."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstack.machine.sizes import UNITS, format_bytes, parse_bytes, parse_count


@given(st.integers(0, 10**12), st.integers(0, 999), st.sampled_from(sorted(UNITS)), st.booleans())
def test_any_number_with_any_unit(whole: int, part: int, unit: str, upper: bool) -> None:
    text = f" {whole}.{part:03d} {unit.upper() if upper else unit.lower()} "
    assert parse_bytes(text) == (whole + Fraction(part, 1000)) * UNITS[unit]


def test_units_of_ten_and_of_two() -> None:
    assert (UNITS["kB"], UNITS["TB"]) == (1000, 10**12)
    assert (UNITS["KiB"], UNITS["TiB"]) == (1024, 2**40)


@pytest.mark.parametrize(
    ("text", "size"),
    [("800MB", 800_000_000), ("1.5GiB", 3 * 2**29), (".5 kB", 500), ("7.B", 7), ("123", 123)],
)
def test_examples(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "1.5", "-1MB", "1e9", "MB", "1.5Gi", "1 MB/s", "nan", "٣MB"])
def test_what_is_no_size(text: str) -> None:
    """A fraction of a byte without a unit, a sign, an unknown unit, another script's digits."""
    assert parse_bytes(text) is None


@given(st.integers(0, 5000 * 2**40))
def test_a_size_shown_is_the_size_to_two_decimals(size: int) -> None:
    text = format_bytes(size)
    number, unit = text.split()
    shown = parse_bytes(text)
    assert shown is not None
    assert abs(shown - size) <= Fraction(UNITS[unit], 190)  # half of a hundredth, and a float's
    assert float(number) < 1024 or unit == "TiB"
    assert unit == "B" or float(number) >= 1
    assert unit != "B" or shown == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (5_735_711, "5.47 MiB"),
        (2**20 - 1, "1.00 MiB"),
        (3 * 2**30, "3.00 GiB"),
        (5000 * 2**40, "5000.00 TiB"),
    ],
)
def test_format_bytes(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1000", 1000), ("20k", 20_000), ("350M", 350e6), ("1.5B", 1.5e9), (" 2 t ", 2e12),
        ("350e6", 350e6), ("3.5e+8", 350e6), (".5K", 500), ("0", None), ("-1", None), ("", None),
        ("nan", None), ("inf", None), ("1e999", None), ("350X", None), ("1.5GB", None),
        ("1e-3", None),
    ],
)  # fmt: skip
def test_counts(text: str, count: float | None) -> None:
    assert parse_count(text) == count
