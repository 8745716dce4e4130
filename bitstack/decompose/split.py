"""Adds the next plane: cuts every cell of a level in two by weighted 2-means.

Two-means in one dimension is exact: the values of each cell go into a histogram, and the best cut
is the one with the largest variance between its sides. It sees only the values, not how columns
correlate. Does not improve the bits under the second moment; see `decompose.search`.
"""

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem

_BINS = 2048
_SPREAD = 8.0  # half the histogram's width, in root mean squares; real weights end at about six


def split(problem: Problem, level: Level) -> Level:
    """Returns the level with one more plane; u and v stay, T has a value for each half cell.

    A level of no planes (code zero, a table of one value) is cut like any other.
    """
    low, high = _histogram_range(problem, level)
    cells = 2**level.planes
    # For every cell and bin: the sum of weights, and the sum of weighted values.
    mass = torch.zeros(cells * _BINS, dtype=torch.float64, device=problem.device)
    moment = torch.zeros_like(mass)
    for rows in problem.panels():
        z, weight = _unscaled(problem, level, rows)
        z.clamp_(low, high)
        index = (level.codes(rows).long() * _BINS).add_(_bins(z, low, high)).flatten()
        mass += torch.bincount(index, weights=weight.flatten(), minlength=len(mass))
        moment += torch.bincount(index, weights=z.mul_(weight).flatten(), minlength=len(mass))
    cut, table = _best_cuts(mass.view(cells, _BINS), moment.view(cells, _BINS), level.table)
    code = torch.empty_like(level.code)
    for rows in problem.panels():
        z, _ = _unscaled(problem, level, rows)
        kept = level.codes(rows)
        bit = _bins(z.clamp_(low, high), low, high) > cut[kept.int()]
        code[rows] = kept | (bit.to(torch.uint8) << level.planes)
    return Level(code, level.u, level.v, table, level.planes + 1)


def _unscaled(problem: Problem, level: Level, rows: slice) -> tuple[Tensor, Tensor]:
    """Rows of Z = X / (u vᵀ), in the units of the table, and the weight of each value.

    (x − u v t)² = (u v)² (z − t)², so a value counts by (u v)² and by its row weight.
    """
    grid = level.v * level.u[rows].unsqueeze(1)
    z = problem.x(rows).div_(grid.where(grid.abs() > 1e-20, 1e-30))
    return z, grid.square_().mul_(problem.row_weights[rows].unsqueeze(1))


def _bins(z: Tensor, low: float, high: float) -> Tensor:
    return ((z - low) / (high - low) * (_BINS - 1)).round_().clamp_(0, _BINS - 1).long()


def _histogram_range(problem: Problem, level: Level) -> tuple[float, float]:
    """Lowest and highest value of the histogram.

    Values beyond are those of rows almost dead, whose z is a quotient of two small numbers. They
    are cut off, or a few of them would stretch the whole table.
    """
    total, squares, low, high = 1e-30, 0.0, float("inf"), -float("inf")
    for rows in problem.panels():
        z, weight = _unscaled(problem, level, rows)
        total += float(weight.sum())
        low, high = min(low, float(z.min())), max(high, float(z.max()))
        squares += float(weight.mul_(z.square_()).sum())
    spread = _SPREAD * (squares / total) ** 0.5 + 1e-20
    return max(low, -spread), min(high, spread) + 1e-12


def _best_cuts(mass: Tensor, moment: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Last bin of the lower half of each cell [cells], and the means of the halves [2 · cells].

    `mass` and `moment` fp64 [cells, bins] are the sums of weights, and of weighted values.
    """
    mass, moment = mass.cumsum(1), moment.cumsum(1)  # of all bins up to each
    all_mass, all_moment = mass[:, -1:], moment[:, -1:]
    low, high = (
        moment / mass.clamp_min(1e-300),
        (all_moment - moment) / (all_mass - mass).clamp_min(1e-300),
    )
    # Total variance = within halves + between halves; the total is fixed, so the largest variance
    # between (up to a constant: mass times squared mean of each half) is the smallest error.
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
