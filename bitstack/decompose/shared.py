"""Lets blocks of rows of one large matrix be decomposed one by one with the same tables and column
scales.

These belong to all rows, so they are learned on some rows first; every later block takes the steps
that were taken there, with the numbers that were found there. Does not choose the rows; see
`decompose.rows`. Does not know what the numbers are.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Shared:
    """What all rows of a matrix share, in the order in which the steps need it."""

    def __init__(self, learned: list[object] | None = None) -> None:
        """Starts a decomposition that learns, or one that takes what another has `learned`."""
        self.learned: list[object] = [] if learned is None else learned
        self.learns = learned is None
        self._next = 0

    def settle(self, find: Callable[[], T]) -> T:
        """Returns what `find` finds and keeps it, or what was found at this step."""
        if self.learns:
            self.learned.append(find())
        self._next += 1
        return self.learned[self._next - 1]  # type: ignore[return-value]
