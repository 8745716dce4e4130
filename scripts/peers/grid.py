"""Uniform grids, one for each group of a row: rounding to nearest, with clipping by search.

A group takes codes of `bits` bits, a scale in fp16 and a zero point of `bits` bits. That is the
tightest common storage: 2.28 bits per weight for 2 bits in groups of 64. The last group of a row
may be shorter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

_SHRINKS = 40  # ranges tried for a group, from 1.00 down to 0.22 of the whole range
_STEP = 0.02


@dataclass(frozen=True)
class Grid:
    """The grid of one group in every row: `scale` and `zero` are [rows, 1], codes 0 … `top`."""

    scale: Tensor
    zero: Tensor
    top: int  # 2^bits - 1

    def round(self, x: Tensor) -> Tensor:
        """Returns the values of the grid that are nearest to `x` [rows, n]."""
        code = (x / self.scale + self.zero).round().clamp(0, self.top)
        return (code - self.zero) * self.scale


def whole_range(x: Tensor, bits: int, shrink: float = 1.0) -> Grid:
    """Returns the grid over `shrink` times the range of each row of `x` [rows, n]; 0 is on it."""
    top = 2**bits - 1
    low, high = x.amin(1, keepdim=True).clamp_max(0), x.amax(1, keepdim=True).clamp_min(0)
    scale = ((high - low) * shrink / top).half().float()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low * shrink / scale).round().clamp(0, top)
    return Grid(scale, zero, top)


def square(grid: Grid, x: Tensor) -> Tensor:
    """Returns the squared error [rows, n] of `x` rounded to a grid."""
    return (grid.round(x) - x).square()


def best_range(
    x: Tensor, bits: int, weight: Tensor | None = None,
    error_of: Callable[[Grid, Tensor], Tensor] = square,
) -> Grid:  # fmt: skip
    """Returns the grid with the least error among clipped ranges, for each row.

    Args:
        x: [rows, n].
        bits: Of a code.
        weight: [n] weighs the columns: the diagonal of the second moment of the inputs.
        error_of: The error [rows, n] of `x` on a grid.
    """
    weight = torch.ones(x.shape[1]) if weight is None else weight
    best = whole_range(x, bits)
    least = (error_of(best, x) * weight).sum(1, keepdim=True)
    for step in range(1, _SHRINKS):
        grid = whole_range(x, bits, 1 - step * _STEP)
        error = (error_of(grid, x) * weight).sum(1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, grid.scale, best.scale)
        best = Grid(scale, torch.where(better, grid.zero, best.zero), best.top)
    return best


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """Returns `weight` [rows, columns] rounded to nearest in groups of columns."""
    parts = weight.split(group, dim=1)
    return torch.cat([best_range(part, bits).round(part) for part in parts], dim=1)


def grouped_bytes(
    rows: int, columns: int, bits: int, group: int, zero_bits: int | None = None
) -> int:
    """Returns the bytes of a matrix: codes, and for each group a scale and a zero point.

    A zero point takes as many bits as a code, or `zero_bits`.
    """
    groups = rows * ceil(columns / group)
    zeros = ceil(groups * (zero_bits or bits) / 8)
    return ceil(rows * columns * bits / 8) + 2 * groups + zeros
