"""The rows of `bench_quality.py` as curves over size.

Curves are interpolated in the logarithm of the distance from the original (the increase in loss, or
the KL), which falls about linearly with bits. Outside a curve there is no value. Does not print;
see `quality_report` and `quality_equal`.
"""

import math
from collections.abc import Sequence

import numpy as np
from peers import METHODS, family
from peers.bench import Row

LEAST = 1e-5  # nats: a smaller increase is noise, and may be below 0, where it has no logarithm


def interpolate(points: Sequence[tuple[float, float]], at: float) -> float | None:
    """Returns the distance at size `at` on a curve of (size, distance); None outside of it."""
    curve = sorted(points)
    if not curve or not curve[0][0] <= at <= curve[-1][0]:
        return None
    sizes, distances = zip(*curve, strict=True)
    logs = [math.log(max(distance, LEAST)) for distance in distances]
    return float(math.exp(np.interp(at, sizes, logs)))


class Curves:
    """The rows as curves over size, by method."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.original = next(r for r in rows if r.method == "original")
        self.rows = [r for r in rows if r is not self.original]

    def increase(self, row: Row) -> float:
        """Returns the nats per token above the original."""
        return row.nll_per_token - self.original.nll_per_token

    def points(self, method: str, view: str) -> list[tuple[float, float]]:
        """Returns (bits of a linear weight or bytes of the whole model, by view; increase)."""
        return [(size_of(r, view), self.increase(r)) for r in self.of(method, view)]

    def divergences(self, method: str, view: str = "whole") -> list[tuple[float, float]]:
        """Returns (size; KL from the original), where it was measured."""
        pairs = [(r, r.kl_per_token) for r in self.of(method, view)]
        return [(size_of(r, view), kl) for r, kl in pairs if kl is not None]

    def of(self, method: str, view: str) -> list[Row]:
        """Returns the rows of a method that belong to a view."""
        return [r for r in self.rows if r.method == method and r.view in (view, "both")]

    def methods(self, view: str) -> list[str]:
        """Returns the methods with a point in `view`, in the order of `METHODS`."""
        names = {r.method for r in self.rows if r.view in (view, "both")}
        return sorted(names, key=lambda method: (list(METHODS).index(family(method)), method))


def size_of(row: Row, view: str) -> float:
    """Returns the bits of a linear weight, or the bytes of the whole model, by view."""
    return row.bits_per_weight if view == "linear" else row.resident_bytes
