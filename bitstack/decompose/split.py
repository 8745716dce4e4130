"""Adds planes: cuts every cell of a level in two by weighted 2-means, as often as planes are added.

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
    """Which code the values of each bin get, and the tables of all levels."""

    low: float
    high: float
    code: Tensor  # uint8 [cells · bins]
    tables: list[Tensor]  # [2^planes], for one more plane, two more, …


def split(problem: Problem, level: Level, count: int, shared: Shared) -> list[Level]:
    """Returns the levels with 1 to `count` more planes; u and v stay, T has a value for each cell.

    A level of no planes (code zero) is cut like any other.
    """
    z, weight = _unscaled(problem, level)
    cuts = shared.settle(lambda: _find_cuts(level, z, weight, count))
    code = cuts.code[_index(level, z, cuts.low, cuts.high)].view(level.code.shape)
    return [
        replace(level, code=code, table=table, planes=level.planes + more, product=None)
        for more, table in enumerate(cuts.tables, 1)
    ]


def _unscaled(problem: Problem, level: Level) -> tuple[Tensor, Tensor]:
    """Z = X / (u vᵀ), in the units of the table, and the weight of each value.

    (x − u v t)² = (u v)² (z − t)², so a value counts by (u v)² and by its row weight.
    """
    grid = level.v * level.u.unsqueeze(1)
    z = problem.x / grid.where(grid.abs() > 1e-20, 1e-30)
    return z, grid.square_().mul_(problem.row_weights.unsqueeze(1))


def _index(level: Level, z: Tensor, low: float, high: float) -> Tensor:
    """Cell and bin of every value, cell · bins + bin, int32 [m · n]."""
    bins = ((z.clamp(low, high) - low) * ((_BINS - 1) / (high - low))).round_().int()
    return (bins if not level.planes else bins.add_(level.codes().int() * _BINS)).flatten()


def _find_cuts(level: Level, z: Tensor, weight: Tensor, count: int) -> _Cuts:
    low, high = _range(z, weight)
    index, cells = _index(level, z, low, high), 2**level.planes
    # For every cell and bin: the sum of weights, and the sum of weighted values.
    mass = torch.bincount(index, weights=weight.flatten().double(), minlength=cells * _BINS)
    values = (z.clamp(low, high) * weight).flatten().double()
    moment = torch.bincount(index, weights=values, minlength=cells * _BINS)
    mass, moment = mass.view(cells, _BINS), moment.view(cells, _BINS)
    code = torch.arange(cells, device=z.device).unsqueeze(1).expand(cells, _BINS).contiguous()
    table, tables = level.table, []
    for plane in range(level.planes, level.planes + count):
        code, table = _cut(mass, moment, code, table, 1 << plane)
        tables.append(table.float())
    return _Cuts(low, high, code.flatten().to(torch.uint8), tables)


def _range(z: Tensor, weight: Tensor) -> tuple[float, float]:
    """Lowest and highest value of the histogram.

    Values beyond are those of rows almost dead, whose z is a quotient of two small numbers. They
    are cut off, or a few of them would stretch the whole table.
    """
    squares = float((weight * z.square()).sum(dtype=torch.float64))
    total = float(weight.sum(dtype=torch.float64)) + 1e-30
    spread = _SPREAD * (squares / total) ** 0.5 + 1e-20
    return max(float(z.min()), -spread), min(float(z.max()), spread) + 1e-12


def _cut(
    mass: Tensor, moment: Tensor, code: Tensor, table: Tensor, bit: int
) -> tuple[Tensor, Tensor]:
    """Cuts each of `bit` cells once; returns the new code of every bin, and the 2 · `bit` means.

    `mass` and `moment` fp64 [histograms, bins] are the sums of weights, and of weighted values;
    `code` int64 of the same shape says to which cell a bin belongs. A cell is a run of bins.
    """
    rows, bins = mass.shape
    sums, moments = (torch.zeros(bit, dtype=torch.float64, device=mass.device) for _ in range(2))
    flat = code.flatten()
    sums.index_add_(0, flat, mass.flatten())
    moments.index_add_(0, flat, moment.flatten())
    below, below_moment = _running(mass, code, sums), _running(moment, code, moments)
    all_mass, all_moment = sums[code], moments[code]
    above, above_moment = all_mass - below, all_moment - below_moment
    # Total variance = within halves + between halves; the total is fixed, so the largest variance
    # between (up to a constant: mass times squared mean of each half) is the smallest error.
    between = below_moment.square() / below.clamp_min(1e-300)
    between += above_moment.square() / above.clamp_min(1e-300)
    between[(above <= 1e-12 * all_mass) | (below <= 0)] = -1
    best = torch.full((bit,), -2.0, dtype=torch.float64, device=mass.device)
    best.scatter_reduce_(0, flat, between.flatten(), "amax")
    places = torch.arange(rows * bins, device=mass.device)
    at = torch.full((bit,), rows * bins, device=mass.device)
    hit = between.flatten() == best[flat]
    at.scatter_reduce_(0, flat[hit], places[hit], "amin")
    upper = (places > at[flat]).view_as(code)
    some, last = at < rows * bins, at.clamp_max(rows * bins - 1)  # not every cell has a bin
    low = torch.where(some, below.flatten()[last], 0.0)
    low_moment = torch.where(some, below_moment.flatten()[last], 0.0)
    high, high_moment = sums - low, moments - low_moment
    # An empty half keeps its parent's value: no weight uses it, and it stays finite.
    parent = table.double()
    lower = torch.where(low > 0, low_moment / low.clamp_min(1e-300), parent)
    enough = high > 1e-12 * sums.clamp_min(1e-300)
    higher = torch.where(enough, high_moment / high.clamp_min(1e-300), parent)
    return code + bit * upper, torch.cat([lower, higher])


def _running(x: Tensor, code: Tensor, totals: Tensor) -> Tensor:
    """The sum of `x` within each cell up to each bin."""
    before = x.cumsum(1)
    # What lies before a cell in its histogram: the running sum in front of its first bin.
    starts = torch.ones_like(code, dtype=torch.bool)
    starts[:, 1:] = code[:, 1:] != code[:, :-1]
    offsets = torch.zeros_like(totals)
    offsets[code[starts]] = (before - x)[starts]
    return before - offsets[code]
