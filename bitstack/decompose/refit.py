"""Tables, rows and columns of a level, each in closed form against the whole second moment.

Given the codes, the error is quadratic in T, in u and in v; each function solves for one with the
others held, and returns a level that is no worse. Which bits the codes hold is `search`'s business.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem, diagonal, times

_RIDGE = 1e-4
_TABLE_STEPS = 6


def refit(problem: Problem, level: Level, moment: Tensor, *, columns: bool = True) -> Level:
    """T, then u, then v of `level` refitted under `moment` [n, n]."""
    level = refit_rows(problem, refit_table(problem, level, moment), moment)
    return refit_columns(problem, level, moment) if columns else level


def refit_rows(problem: Problem, level: Level, moment: Tensor) -> Level:
    """One number a row: u_r = (q Hs x) / (q Hs q) with q = T[code] v. One m n² product."""
    u = level.u.clone()
    for rows in problem.panels():
        q = level.cells(rows).mul_(level.v)
        felt = times(q, moment)
        size = q.mul_(felt).sum(1)
        best = felt.mul_(problem.x(rows)).sum(1) / size.clamp_min(1e-20)
        u[rows] = torch.where(size > 1e-20, best, u[rows])
    return replace(level, u=u)


def refit_columns(problem: Problem, level: Level, moment: Tensor) -> Level:
    """One number a column: (Hs ∘ FᵀRF) v = Σ_rows R F ∘ (X Hs), F = diag(u) T[code].

    R holds the row weights. Two m n² products and one n³/3 factorisation.
    """
    left, right = _column_equations(problem, level, moment)
    ridge = _RIDGE * diagonal(left).mean().clamp_min(1e-30)
    diagonal(left).add_(ridge)
    right += ridge * level.v
    if left.ndim == 1:
        return replace(level, v=(right / left).float())
    failed = torch.empty((), dtype=torch.int32, device=left.device)
    # In place: for wide matrices nothing here is larger.
    factor, failed = torch.linalg.cholesky_ex(left, out=(left, failed))
    if failed:
        return level
    v = torch.cholesky_solve(right.unsqueeze(1), factor)[:, 0].float()
    return replace(level, v=v) if torch.isfinite(v).all() else level


def _column_equations(problem: Problem, level: Level, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Left [n, n] (a diagonal moment: [n]) and right side [n] of the equations for v, fp64."""
    gram = torch.zeros_like(moment)
    right = torch.zeros_like(level.v)
    for rows in problem.panels():
        f = level.cells(rows).mul_(level.u[rows].unsqueeze(1))
        weighted = f * problem.rows[rows].unsqueeze(1)
        if gram.ndim == 1:
            gram += (weighted * f).sum(0)
        else:
            gram.addmm_(weighted.T, f)
        right += weighted.mul_(times(problem.x(rows), moment)).sum(0)
    return gram.mul_(moment).double(), right.double()


def refit_table(problem: Problem, level: Level, moment: Tensor) -> Level:
    """The 2^j table values, by preconditioned conjugate gradients: one m n² product a step.

    The ridge holds values that hardly a weight uses: free, one of them grows until fp16 has no
    room left for the others.
    """
    size, residual = _table_equations(problem, level, moment)
    ridge = _RIDGE * size.mean().clamp_min(1e-30) * 10
    size = size + ridge
    step, better = torch.zeros_like(residual), residual / size
    direction, gain = better, float(residual @ better)
    start = gain
    for _ in range(min(_TABLE_STEPS, len(level.table))):
        if gain <= 1e-12 * start or gain == 0:
            break
        image = _table_felt(problem, level, moment, direction) + ridge * direction
        length = gain / float((direction @ image).clamp_min(1e-30))
        step = step + length * direction
        residual = residual - length * image
        better = residual / size
        new = float(residual @ better)
        direction, gain = better + new / gain * direction, new
    return replace(level, table=level.table + step)


def _table_equations(problem: Problem, level: Level, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonal and right side of the equations for changes of T, each [2^j]."""
    size, residual = torch.zeros_like(level.table), torch.zeros_like(level.table)
    for rows in problem.panels():
        codes, grid, weighted = _grids(problem, level, rows)
        size += _by_code(level, codes, (grid * weighted).mul_(diagonal(moment)))
        error = problem.x(rows) - level.values(rows)
        residual += _by_code(level, codes, weighted.mul_(times(error, moment)))
    return size, residual


def _table_felt(problem: Problem, level: Level, moment: Tensor, table: Tensor) -> Tensor:
    """The normal matrix times `table`, without the ridge."""
    total = torch.zeros_like(table)
    for rows in problem.panels():
        codes, grid, weighted = _grids(problem, level, rows)
        total += _by_code(level, codes, weighted.mul_(times(grid.mul_(table[codes]), moment)))
    return total


def _grids(problem: Problem, level: Level, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (int32), u vᵀ, and that times the row weights: each some rows of [m, n]."""
    grid = level.v * level.u[rows].unsqueeze(1)
    return level.codes(rows).int(), grid, grid * problem.rows[rows].unsqueeze(1)


def _by_code(level: Level, codes: Tensor, x: Tensor) -> Tensor:
    """Sum of `x` over the weights of each code, [2^j]."""
    return torch.bincount(codes.flatten(), weights=x.flatten(), minlength=len(level.table)).float()
