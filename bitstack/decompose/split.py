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
    low, high = _range(problem, level)
    cells = 2**level.planes
    mass = torch.zeros(cells * _BINS, dtype=torch.float64, device=problem.device)
    moment = torch.zeros_like(mass)
    for rows in problem.panels():
        z, weight = _quotients(problem, level, rows)
        z.clamp_(low, high)
        index = (level.codes(rows).long() * _BINS).add_(_bins(z, low, high)).flatten()
        mass += torch.bincount(index, weights=weight.flatten(), minlength=len(mass))
        moment += torch.bincount(index, weights=z.mul_(weight).flatten(), minlength=len(mass))
    cut, table = _cuts(mass.view(cells, _BINS), moment.view(cells, _BINS), level.table)
    code = torch.empty_like(level.code)
    for rows in problem.panels():
        z, _ = _quotients(problem, level, rows)
        kept = level.codes(rows)
        bit = _bins(z.clamp_(low, high), low, high) > cut[kept.int()]
        code[rows] = kept | (bit.to(torch.uint8) << level.planes)
    return Level(code, level.u, level.v, table, level.planes + 1)


def _quotients(problem: Problem, level: Level, rows: slice) -> tuple[Tensor, Tensor]:
    """X / (u vᵀ), and what each counts: rows of [m, n]."""
    grid = level.v * level.u[rows].unsqueeze(1)
    z = problem.x(rows).div_(grid.where(grid.abs() > 1e-20, 1e-30))
    return z, grid.square_().mul_(problem.rows[rows].unsqueeze(1))


def _bins(z: Tensor, low: float, high: float) -> Tensor:
    return ((z - low) / (high - low) * (_BINS - 1)).round_().clamp_(0, _BINS - 1).long()


def _range(problem: Problem, level: Level) -> tuple[float, float]:
    """Where the histogram lies. Values beyond are those of rows almost dead, whose z is a quotient
    of two small numbers: they are cut off, or a few of them would stretch the whole table."""
    total, squares, low, high = 1e-30, 0.0, float("inf"), -float("inf")
    for rows in problem.panels():
        z, weight = _quotients(problem, level, rows)
        total += float(weight.sum())
        low, high = min(low, float(z.min())), max(high, float(z.max()))
        squares += float(weight.mul_(z.square_()).sum())
    spread = _SPREAD * (squares / total) ** 0.5 + 1e-20
    return max(low, -spread), min(high, spread) + 1e-12


def _cuts(mass: Tensor, moment: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Last bin of the lower half of each cell [cells], and the means of the halves [2 · cells].

    `mass` and `moment` fp64 [cells, bins] are the sums of weights, and of weighted values.
    """
    mass, moment = mass.cumsum(1), moment.cumsum(1)
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
