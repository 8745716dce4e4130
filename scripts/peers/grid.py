"""A uniform grid for each group of a row: round to nearest, with the best clipping found by search.

Bytes: codes of exactly `bits` bits, and for every group a scale in fp16 and a zero of `bits` bits,
the tightest common storage (2.28 bits a weight for 2 bits in groups of 64). A last group may be
shorter than the others.
"""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

_SHRINKS = 40  # ranges tried for a group: 1.00 down to 0.22 of the whole
_STEP = 0.02


@dataclass(frozen=True)
class Grid:
    """`scale` and `zero` [rows, 1] of one group; codes are 0 … 2^bits - 1."""

    scale: Tensor
    zero: Tensor
    top: int

    def round(self, x: Tensor) -> Tensor:
        """The nearest values of the grid, `x` [rows, n]."""
        code = (x / self.scale + self.zero).round().clamp(0, self.top)
        return (code - self.zero) * self.scale


def whole_range(x: Tensor, bits: int, shrink: float = 1.0) -> Grid:
    """The grid over `shrink` times the range of every row of `x` [rows, n], zero always in it."""
    top = 2**bits - 1
    low, high = x.amin(1, keepdim=True).clamp_max(0), x.amax(1, keepdim=True).clamp_min(0)
    scale = ((high - low) * shrink / top).half().float()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low * shrink / scale).round().clamp(0, top)
    return Grid(scale, zero, top)


def best_range(x: Tensor, bits: int, weight: Tensor | None = None) -> Grid:
    """The grid of least squared error over clipped ranges, each row its own.

    `weight` [n] counts columns (the diagonal of the inputs' second moment).
    """
    weight = torch.ones(x.shape[1]) if weight is None else weight
    best = whole_range(x, bits)
    least = ((best.round(x) - x).square() * weight).sum(1, keepdim=True)
    for step in range(1, _SHRINKS):
        grid = whole_range(x, bits, 1 - step * _STEP)
        error = ((grid.round(x) - x).square() * weight).sum(1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, grid.scale, best.scale)
        best = Grid(scale, torch.where(better, grid.zero, best.zero), best.top)
    return best


def grouped_bytes(rows: int, columns: int, bits: int, group: int) -> int:
    """Bytes of one matrix: packed codes, then an fp16 scale and a packed zero for every group."""
    groups = rows * ceil(columns / group)
    return ceil(rows * columns * bits / 8) + 2 * groups + ceil(groups * bits / 8)
