"""Rounding to nearest in groups, the range of each group clipped by search.

Uses no calibration text and no error feedback.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from peers.bench import Bench, Clock, Row
from peers.grid import best_range, grouped_bytes
from peers.loops import Done, quantise_each, unmeasured

BITS, GROUPS = (2, 3, 4, 8), (32, 64, 128)


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    for method, setting, bits, group in unmeasured("rtn g{}", BITS, GROUPS, done):

        def quantise(weight: Tensor, bits: int = bits, group: int = group) -> tuple[Tensor, int]:
            return rounded(weight, bits, group), grouped_bytes(*weight.shape, bits, group)

        clock = Clock()
        weights, size = quantise_each(bench, f"{method} {setting}", quantise)
        yield bench.row(method, setting, weights, size, clock.seconds)


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """Returns `weight` [rows, columns] rounded to nearest in groups of columns."""
    parts = weight.split(group, dim=1)
    return torch.cat([best_range(part, bits).round(part) for part in parts], dim=1)
