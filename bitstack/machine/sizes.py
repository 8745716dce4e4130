"""Reads sizes in bytes and counts as people write them, and writes sizes as people read them."""

import math
import re
from fractions import Fraction

PREFIXES = ("k", "M", "G", "T")
UNITS = (
    {"B": 1}
    | {f"{prefix}B": 1000**i for i, prefix in enumerate(PREFIXES, start=1)}
    | {f"{prefix.upper()}iB": 1024**i for i, prefix in enumerate(PREFIXES, start=1)}
)
_UNITS = {unit.lower(): size for unit, size in UNITS.items()}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_COUNT = re.compile(r"(\d+\.?\d*(?:e\+?\d+)?|\.\d+)\s*([kmbt]?)", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([A-Za-z]*)", re.ASCII)


def parse_bytes(text: str) -> Fraction | None:
    """Returns exactly the bytes that a text such as `800MB`, `1.5 GiB` or `123456789` names.

    Units may be of any case, and white space may stand around. For any other text the result is
    None, so that the caller can say what was expected.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    number, unit = match.groups()
    if unit:
        size = _UNITS.get(unit.lower())
        return None if size is None else Fraction(number) * size
    return Fraction(number) if number.isdecimal() else None


def parse_count(text: str) -> float | None:
    """Returns the number that a text such as `350M`, `1.5B`, `20k`, `350e6` or `1000` names.

    K, M, B and T, of any case, are thousands, millions, billions (10^9) and trillions. For any
    other text, and for what is not above 0, the result is None.
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        return None
    number, letter = match.groups()
    count = float(number) * _COUNTS[letter.lower()]
    return count if 0 < count < math.inf else None


def format_bytes(size: int) -> str:
    """Returns a size such as `5.47 MiB`: two decimals, in the largest binary unit that fits."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for prefix in PREFIXES:
        value /= 1024
        # From 1023.995 on, two decimals would read 1024.00.
        if value < 1023.995 or prefix == PREFIXES[-1]:
            break
    return f"{value:.2f} {prefix.upper()}iB"
