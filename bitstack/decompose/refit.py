"""Refits the scale set of a level against the whole second moment, each part in closed form.

Given the codes, the error is quadratic in T, in u and in v. Each function solves for one with the
others held, so in turn they are alternating least squares, and no step makes the level worse. Does
not choose the bits of the codes; see `decompose.search`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem, diagonal, times

_RIDGE = 1e-4  # of the mean diagonal: keeps the equations solvable where a column hardly counts
TABLE_STEPS = 3  # of conjugate gradients, for the values of a table


def refit(problem: Problem, level: Level, hessian: Tensor, *, columns: bool = True) -> Level:
    """Refits T, then u, then v of `level` under `hessian`, a damped second moment [n, n] or [n].

    Without `columns` v stays as it is: its equations have n unknowns, and factorising them takes
    most of the time where a matrix has fewer rows than columns.
    """
    level = refit_rows(problem, refit_table(problem, level, hessian), hessian)
    return refit_columns(problem, level, hessian) if columns else level


def refit_rows(problem: Problem, level: Level, hessian: Tensor) -> Level:
    """Refits the scale of every row: u_r = (q H x) / (q H q) with q = T[code] v.

    One product of m n² operations. Rows do not depend on one another, so their weights cancel.
    """
    u = level.u.clone()
    for rows in problem.panels():
        q = level.cells(rows).mul_(level.v)
        q_hessian = times(q, hessian)
        curvature = q.mul_(q_hessian).sum(1)  # q H q
        best = q_hessian.mul_(problem.x(rows)).sum(1) / curvature.clamp_min(1e-20)
        u[rows] = torch.where(curvature > 1e-20, best, u[rows])
    return replace(level, u=u)


def refit_columns(problem: Problem, level: Level, hessian: Tensor) -> Level:
    """Refits the scale of every column: (H ∘ FᵀRF) v = Σ_rows R F ∘ (X H), F = diag(u) T[code].

    R holds the row weights. Two products of m n² operations and one n³/3 factorisation.
    """
    left, right = _column_equations(problem, level, hessian)
    # A ridge around the present v, not around zero: what the data does not fix stays as it is.
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


def _column_equations(problem: Problem, level: Level, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Left [n, n] (a diagonal hessian: [n]) and right side [n] of the equations for v, fp64."""
    gram = torch.zeros_like(hessian)  # FᵀRF
    right = torch.zeros_like(level.v)
    for rows in problem.panels():
        f = level.cells(rows).mul_(level.u[rows].unsqueeze(1))
        weighted = f * problem.row_weights[rows].unsqueeze(1)
        if gram.ndim == 1:
            gram += (weighted * f).sum(0)
        else:
            gram.addmm_(weighted.T, f)
        right += weighted.mul_(times(problem.x(rows), hessian)).sum(0)
    return gram.mul_(hessian).double(), right.double()


def refit_table(problem: Problem, level: Level, hessian: Tensor) -> Level:
    """Refits the 2^j table values by conjugate gradients, one m n² product a step.

    The normal matrix of T would take 2^j such products to write down; conjugate gradients with its
    diagonal as preconditioner come near enough in three. The ridge holds values that hardly a
    weight uses: free, one of them grows until fp16 has no room left for the others.
    """
    curvature, residual = _table_equations(problem, level, hessian)
    ridge = _RIDGE * curvature.mean().clamp_min(1e-30) * 10
    curvature = curvature + ridge
    step, scaled = torch.zeros_like(residual), residual / curvature
    direction, size = scaled, float(residual @ scaled)
    first_size = size
    for _ in range(min(TABLE_STEPS, len(level.table))):
        if size <= 1e-12 * first_size or size == 0:
            break
        image = _times_normal_matrix(problem, level, hessian, direction) + ridge * direction
        length = size / float((direction @ image).clamp_min(1e-30))  # to the least error along it
        step = step + length * direction
        residual = residual - length * image
        scaled = residual / curvature
        new_size = float(residual @ scaled)
        direction, size = scaled + new_size / size * direction, new_size
    return replace(level, table=level.table + step)


def _table_equations(problem: Problem, level: Level, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonal of the normal matrix, and right side, of the equations for changes of T, [2^j].

    The diagonal leaves out what two weights of one code share: as a preconditioner it may be rough.
    """
    curvature, residual = torch.zeros_like(level.table), torch.zeros_like(level.table)
    for rows in problem.panels():
        codes, grid, weighted = _scale_grid(problem, level, rows)
        curvature += _sum_by_code(level, codes, (grid * weighted).mul_(diagonal(hessian)))
        error = problem.x(rows) - level.values(rows)
        residual += _sum_by_code(level, codes, weighted.mul_(times(error, hessian)))
    return curvature, residual


def _times_normal_matrix(problem: Problem, level: Level, hessian: Tensor, table: Tensor) -> Tensor:
    """The normal matrix of T times `table` [2^j], without the ridge."""
    total = torch.zeros_like(table)
    for rows in problem.panels():
        codes, grid, weighted = _scale_grid(problem, level, rows)
        image = times(grid.mul_(table[codes]), hessian)
        total += _sum_by_code(level, codes, weighted.mul_(image))
    return total


def _scale_grid(problem: Problem, level: Level, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (int32), u vᵀ, and u vᵀ times the row weights: each some rows of [m, n]."""
    grid = level.v * level.u[rows].unsqueeze(1)
    return level.codes(rows).int(), grid, grid * problem.row_weights[rows].unsqueeze(1)


def _sum_by_code(level: Level, codes: Tensor, x: Tensor) -> Tensor:
    """Sum of `x` over the weights of each code, [2^j]."""
    return torch.bincount(codes.flatten(), weights=x.flatten(), minlength=len(level.table)).float()
