"""Reads times as people write them, and writes them as people read them."""

import math
import re

from bitstack.errors import UserError

_SECONDS = {"h": 3600, "m": 60, "min": 60, "s": 1}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)\s*(h|min|m|s)", re.ASCII | re.IGNORECASE)


def parse_duration(text: str) -> float | None:
    """Returns the seconds that a text such as `20m`, `1h30m`, `1.5 h` or `90s` names.

    For any other text the result is None, so that the caller can say what was expected.
    """
    rest = _PART.sub("", text)
    parts = _PART.findall(text)
    if not parts or rest.strip():
        return None
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def seconds_of(time: str | float | None) -> float | None:
    """Returns the value of `--time` in seconds.

    Raises:
        UserError: It is no time above zero.
    """
    seconds = parse_duration(time) if isinstance(time, str) else time
    if time is not None and not (seconds and 0 < seconds < math.inf):
        raise UserError(f"--time {time}: not a time; write one such as 20m, 1h30m or 90s")
    return seconds


def format_duration(seconds: float) -> str:
    """Returns a time such as `1 h 04 min`, `4 min 10 s` or `0.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )
