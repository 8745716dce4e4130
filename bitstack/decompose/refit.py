"""Refits the scale set of a level under the whole second moment, each part with the others held.

Given the codes, the error is quadratic in T, in u and in v. Rows do not depend on one another, so u
has its best value in closed form. T and v take one step of steepest descent, preconditioned by the
diagonal of their equations, to the least error along it: the step is cheap, as it needs one product
of m n² operations and the error's own product, which is kept up to date, and the next refit goes on
from there. No step makes the level worse. Does not choose the bits of the codes; see
`decompose.search`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem
from bitstack.decompose.shared import Shared
from bitstack.kernels import codes

_RIDGE = 1e-3  # of the mean curvature: keeps a step finite where a value hardly counts
PRODUCTS = 2.0  # of m n² operations, in one refit


def refit(problem: Problem, level: Level, damping: float, shared: Shared) -> Level:
    """Refits T, then u, then v of `level` under M + `damping` · I.

    Rows that take T and v from others refit u alone.
    """
    if shared.learns:
        level = refit_table(problem, level.with_product(problem), damping)
        level = refit_columns(problem, refit_rows(problem, level, damping), damping)
    table, v = shared.settle(lambda: (level.table, level.v))
    if shared.learns:
        return level
    taken = replace(level, table=table, v=v, product=None)
    return refit_rows(problem, taken.with_product(problem), damping)


def refit_rows(problem: Problem, level: Level, damping: float) -> Level:
    """Refits the scale of every row: it is multiplied by (a H x) / (a H a), a the row of values."""
    assert level.product is not None
    values = level.values()
    image = problem.image + damping * problem.x  # X H
    own = problem.image - level.product + damping * values  # A H
    size = own.mul_(values).sum(1)
    best = image.mul_(values).sum(1) / size.clamp_min(1e-20)
    factor = torch.where(size > 1e-20, best, 1.0).unsqueeze(1)
    product = problem.image - factor * (problem.image - level.product)
    return replace(level, u=level.u * factor[:, 0], product=product)


def refit_columns(problem: Problem, level: Level, damping: float) -> Level:
    """Moves the scales of all columns by one step."""
    gradient = _gradient(problem, level, damping)
    ones = torch.ones_like(level.v)
    weighted = codes.values(level.code, level.planes, level.table, level.u, ones)
    slope = (gradient * weighted).mul_(problem.row_weights.unsqueeze(1)).sum(0)
    weight = problem.row_weights.unsqueeze(1) * weighted.square_()
    direction = _divided(slope, weight.sum(0) * (problem.diagonal + damping))
    moved = codes.values(level.code, level.planes, level.table, level.u, direction)
    length, product = _step(problem, level, damping, moved, float(direction @ slope))
    return replace(level, v=level.v + length * direction, product=product)


def refit_table(problem: Problem, level: Level, damping: float) -> Level:
    """Moves the 2^j table values by one step."""
    gradient = _gradient(problem, level, damping)
    rows = problem.row_weights * level.u
    slope = codes.sum_by_code(level.code, level.planes, rows, level.v, gradient)
    columns = level.v.square() * (problem.diagonal + damping)
    # What two weights of one code share is left out: as a preconditioner it may be rough.
    weight = codes.sum_by_code(level.code, level.planes, rows * level.u, columns)
    direction = _divided(slope, weight)
    moved = codes.values(level.code, level.planes, direction, level.u, level.v)
    length, product = _step(problem, level, damping, moved, float(direction @ slope))
    return replace(level, table=level.table + length * direction, product=product)


def _divided(slope: Tensor, weight: Tensor) -> Tensor:
    """The step of each number by itself: a ridge holds those that hardly a weight uses, or one of
    them grows until fp16 has no room left for the others."""
    return slope / (weight + _RIDGE * weight.mean().clamp_min(1e-30))


def _gradient(problem: Problem, level: Level, damping: float) -> Tensor:
    """(X − A)(M + damping · I), a new tensor [m, n]."""
    assert level.product is not None
    return level.error(problem).mul_(damping).add_(level.product)


def _step(
    problem: Problem, level: Level, damping: float, moved: Tensor, slope: float
) -> tuple[float, Tensor]:
    """How far to go along `moved`, a change of the values [m, n], and the product after that."""
    assert level.product is not None
    image = problem.times_rough_moment(moved)
    squares = (image * moved).add_(damping * moved.square()).sum(1)
    curvature = float(squares @ problem.row_weights)
    length = slope / curvature if curvature > 1e-30 else 0.0
    return length, level.product.sub(image, alpha=length)


def refit_uncorrelated(problem: Problem, level: Level, shared: Shared) -> Level:
    """Refits T, u and v as if inputs did not correlate, each in closed form.

    Where inputs correlate, a row's best scale can be next to nothing, because what its codes get
    wrong together counts most. Cells in units of such a scale end far below the row's weights, and
    no later plane would reach them. So cells are cut after a refit of this kind.
    """
    if shared.learns:
        rows = problem.row_weights * level.u
        slope = codes.sum_by_code(level.code, level.planes, rows, level.v, problem.x)
        weight = codes.sum_by_code(level.code, level.planes, rows * level.u, level.v.square())
        used = weight > 1e-9 * weight.mean()
        table = torch.where(used, slope / weight.clamp_min(1e-30), level.table)
        level = _uncorrelated_rows(problem, replace(level, table=table))
        ones = torch.ones_like(level.v)
        values = codes.values(level.code, level.planes, level.table, level.u, ones)
        weighted = values * problem.row_weights.unsqueeze(1)
        size = (weighted * values).sum(0)
        best = weighted.mul_(problem.x).sum(0) / size.clamp_min(1e-30)
        level = replace(level, v=torch.where(size > 1e-9 * size.mean(), best, level.v))
    table, v = shared.settle(lambda: (level.table, level.v))
    return level if shared.learns else _uncorrelated_rows(problem, replace(level, table=table, v=v))


def _uncorrelated_rows(problem: Problem, level: Level) -> Level:
    values = level.values()
    size = values.square().sum(1)
    best = values.mul_(problem.x).sum(1) / size.clamp_min(1e-30)
    factor = torch.where(size > 1e-20, best, 1.0)
    return replace(level, u=level.u * factor, product=None)
