"""Adds the next plane: cuts every cell of a level in two by weighted 2-means.

Two-means in one dimension is exact: the values of each cell go into a histogram, and the best cut
is the one with the largest variance between its sides. It sees only the values, not how columns
correlate. Does not improve the bits under the second moment; see `decompose.search`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem
from bitstack.decompose.shared import Shared

_BINS = 8192
_SPREAD = 32.0  # half the histogram's width, in root mean squares; most weights end at about six


@dataclass(frozen=True)
class _Cuts:
    """Where the cells are cut, and the table of the halves."""

    low: float
    high: float
    last: Tensor  # int64 [cells], last bin of the lower half of every cell
    table: Tensor  # [2 · cells]


def split(problem: Problem, level: Level, shared: Shared) -> Level:
    """Returns the level with one more plane; u and v stay, T has a value for each half cell.

    A level of no planes (code zero) is cut like any other.
    """
    z, weight = _unscaled(problem, level)
    cuts = shared.settle(lambda: _find_cuts(level, z, weight))
    cells = level.codes()
    upper = _bins(z, cuts.low, cuts.high) > cuts.last[cells.int()]
    code = cells | (upper.to(torch.uint8) << level.planes)
    return replace(level, code=code, table=cuts.table, planes=level.planes + 1, product=None)


def _unscaled(problem: Problem, level: Level) -> tuple[Tensor, Tensor]:
    """Z = X / (u vᵀ), in the units of the table, and the weight of each value.

    (x − u v t)² = (u v)² (z − t)², so a value counts by (u v)² and by its row weight.
    """
    grid = level.v * level.u.unsqueeze(1)
    z = problem.x / grid.where(grid.abs() > 1e-20, 1e-30)
    return z, grid.square_().mul_(problem.row_weights.unsqueeze(1))


def _bins(z: Tensor, low: float, high: float) -> Tensor:
    return ((z.clamp(low, high) - low) * ((_BINS - 1) / (high - low))).round_().int()


def _find_cuts(level: Level, z: Tensor, weight: Tensor) -> _Cuts:
    low, high = _range(z, weight)
    cells, bins = level.codes().flatten().int(), _bins(z, low, high).flatten()
    first, width = _spans(cells, bins, 2**level.planes)
    index = bins.sub_(first[cells]).add_(cells.mul_(width))
    # For every cell and bin: the sum of weights, and the sum of weighted values.
    sums = [
        torch.bincount(index, weights=x.flatten().double(), minlength=len(first) * width).view(
            len(first), width
        )
        for x in (weight, z.clamp(low, high) * weight)
    ]
    last, table = _best_cuts(sums[0], sums[1], level.table)
    # A cell whose values share one bin is cut at bin 0: all of them are in the upper half.
    return _Cuts(low, high, torch.where(last > 0, last + first, 0), table)


def _spans(cells: Tensor, bins: Tensor, count: int) -> tuple[Tensor, int]:
    """The bin before the first one of each cell, int32 [count], and the bins of the widest cell.

    A cell covers few bins of the whole histogram: of a small matrix the others are never made.
    """
    first = torch.full((count,), _BINS, dtype=torch.int32, device=bins.device)
    if count * _BINS <= len(bins):
        return first.zero_(), _BINS
    last, where = torch.zeros_like(first), cells.long()
    first.scatter_reduce_(0, where, bins, "amin")
    last.scatter_reduce_(0, where, bins, "amax")
    first = torch.where(first < _BINS, (first - 1).clamp_min(0), 0)
    return first, int((last - first).max()) + 1


def _range(z: Tensor, weight: Tensor) -> tuple[float, float]:
    """Lowest and highest value of the histogram.

    Values beyond are those of rows almost dead, whose z is a quotient of two small numbers. They
    are cut off, or a few of them would stretch the whole table.
    """
    squares = float((weight * z.square()).sum(dtype=torch.float64))
    total = float(weight.sum(dtype=torch.float64)) + 1e-30
    spread = _SPREAD * (squares / total) ** 0.5 + 1e-20
    return max(float(z.min()), -spread), min(float(z.max()), spread) + 1e-12


def _best_cuts(mass: Tensor, moment: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Last bin of the lower half of each cell [cells], and the means of the halves [2 · cells].

    `mass` and `moment` fp64 [cells, bins] are the sums of weights, and of weighted values.
    """
    below, below_moment = mass.cumsum(1), moment.cumsum(1)  # of all bins up to each
    all_mass, all_moment = below[:, -1:], below_moment[:, -1:]
    above, above_moment = all_mass - below, all_moment - below_moment
    # Total variance = within halves + between halves; the total is fixed, so the largest variance
    # between (up to a constant: mass times squared mean of each half) is the smallest error.
    between = below_moment.square() / below.clamp_min(1e-300)
    between += above_moment.square() / above.clamp_min(1e-300)
    between[(above <= 1e-12 * all_mass) | (below <= 0)] = -1
    last = between.argmax(1)
    low, low_moment, high, high_moment = (
        x.gather(1, last.unsqueeze(1))[:, 0] for x in (below, below_moment, above, above_moment)
    )
    # An empty half keeps its parent's value: no weight uses it, and it stays finite.
    parent = table.double()
    lower = torch.where(low > 0, low_moment / low.clamp_min(1e-300), parent)
    enough = high > 1e-12 * all_mass[:, 0].clamp_min(1e-300)
    higher = torch.where(enough, high_moment / high.clamp_min(1e-300), parent)
    return last, torch.cat([lower, higher]).float()
