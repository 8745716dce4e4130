"""The next plane: every cell of a level cut in two by weighted 2-means.

Exact two-means in one dimension: the values of each cell go into a histogram and the cut is the one
with the largest variance between its sides. Only values matter here, not the second moment between
columns; `search` takes it from there.
"""

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem

_BINS = 2048
_SPREAD = 8.0  # root mean squares; real weights end at about six


def split(problem: Problem, level: Level) -> Level:
    """The level with one more plane; u and v are kept, T has a value for each half cell.

    A level of no planes (code zero, a table of one value) is cut like any other.
    """
    grid = (level.v * level.u.unsqueeze(1)).abs().clamp_min(1e-30)
    z = problem.x / (level.v * level.u.unsqueeze(1)).where(grid > 1e-20, grid)
    weight = grid.square() * problem.rows.unsqueeze(1)
    low, high = _range(z, weight)
    z = z.clamp(low, high)
    position = ((z - low) / (high - low) * (_BINS - 1)).round().clamp(0, _BINS - 1).long()
    cells = 2**level.planes
    cut, table = _cuts(level.code, position, z, weight, cells, level.table)
    bit = position > cut[level.code.int()]
    code = level.code | (bit.to(torch.uint8) << level.planes)
    return Level(code, level.u, level.v, table, level.planes + 1)


def _range(z: Tensor, weight: Tensor) -> tuple[float, float]:
    """Where the histogram lies. Values beyond are those of rows almost dead, whose z is a quotient
    of two small numbers: they are cut off, or a few of them would stretch the whole table."""
    total = float(weight.sum()) + 1e-30
    spread = _SPREAD * (float((weight * z.square()).sum()) / total) ** 0.5 + 1e-20
    return max(float(z.min()), -spread), min(float(z.max()), spread) + 1e-12


def _cuts(
    code: Tensor, position: Tensor, z: Tensor, weight: Tensor, cells: int, table: Tensor
) -> tuple[Tensor, Tensor]:
    """Last bin of the lower half of each cell [cells], and the means of the halves [2 · cells]."""
    index = (code.long() * _BINS + position).flatten()
    mass = torch.bincount(index, weights=weight.flatten(), minlength=cells * _BINS)
    moment = torch.bincount(index, weights=(weight * z).flatten(), minlength=cells * _BINS)
    mass, moment = (s.double().view(cells, _BINS).cumsum(1) for s in (mass, moment))
    all_mass, all_moment = mass[:, -1:], moment[:, -1:]
    low, high = (
        moment / mass.clamp_min(1e-300),
        (all_moment - moment) / (all_mass - mass).clamp_min(1e-300),
    )
    between = (mass * low.square() + (all_mass - mass) * high.square())[:, :-1]
    cut = between.argmax(1)
    pick = cut.unsqueeze(1)
    lower, upper = low.gather(1, pick)[:, 0], high.gather(1, pick)[:, 0]
    # An empty half keeps its parent's value: no weight uses it, and it stays finite.
    parent = table.double()
    has_low = mass.gather(1, pick)[:, 0] > 0
    has_high = (all_mass - mass.gather(1, pick))[:, 0] > 1e-12 * all_mass[:, 0].clamp_min(1e-300)
    halves = torch.cat([torch.where(has_low, lower, parent), torch.where(has_high, upper, parent)])
    return cut, halves.float()
