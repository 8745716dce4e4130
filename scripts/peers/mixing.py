"""Chooses a type for each tensor, so that a model takes at most a number of bytes.

Knows sizes and errors only; `peers.llama_cpp_mix` measures them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A tensor in a type."""

    kind: Any  # type
    size: int  # bytes
    error: float


def chosen(choices: Mapping[str, Sequence[Choice]], most: int) -> dict[str, Choice] | None:
    """Returns the choice of each tensor, at most `most` bytes in all; None if none are so small.

    Steps along the lower convex hull of each tensor, in the order of error saved per byte.
    """
    hulls = {name: hull(each) for name, each in choices.items()}
    taken = {name: each[0] for name, each in hulls.items()}
    left = most - sum(choice.size for choice in taken.values())
    if left < 0:
        return None
    steps = [(_slope(a, b), n, b) for n, each in hulls.items() for a, b in pairwise(each)]
    for _, name, choice in sorted(steps, key=lambda step: step[:2]):
        more = choice.size - taken[name].size
        if more <= left:
            taken[name], left = choice, left - more
    return taken


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """Returns the choices that save the most error per byte, from small to large."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.size, c.error)):
        if kept and choice.error >= kept[-1].error:
            continue
        while len(kept) > 1 and _slope(kept[-1], choice) <= _slope(kept[-2], kept[-1]):
            kept.pop()
        kept.append(choice)
    return kept


def _slope(small: Choice, large: Choice) -> float:
    """Returns the error gained per byte, below zero."""
    return (large.error - small.error) / (large.size - small.size)
