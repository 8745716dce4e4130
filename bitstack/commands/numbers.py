"""Reads the numbers of options: counts such as 350M, and sizes such as 500kB.

Each function is the parser of an option; typer names the option in the error.
"""

import typer

from bitstack.machine.sizes import parse_bytes, parse_count


def number(text: str) -> float:
    """Reads a number above 0 such as 350M, 1.5B or 20k."""
    count = parse_count(str(text))
    if count is None:
        raise typer.BadParameter(
            f"{text!r} is no number above 0; give one such as 1000, 20k, 350M or 1.5B"
        )
    return count


def whole(text: str) -> int:
    """Reads a whole number above 0 such as 1000 or 20k."""
    count = parse_count(str(text))
    if count is None or count != int(count):
        raise typer.BadParameter(
            f"{text!r} is no whole number above 0; give one such as 1000 or 20k"
        )
    return int(count)


def size(text: str) -> int:
    """Reads bytes such as 500000 or 500kB."""
    count = parse_bytes(str(text))
    if count is None or count < 1:
        raise typer.BadParameter(
            f"{text!r} is no size above 0; give one such as 500000, 500kB or 1MiB"
        )
    return int(count)
