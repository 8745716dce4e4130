"""Tables, rows and columns of a level, each in closed form against the whole second moment.

Given the codes, the error is quadratic in T, in u and in v; each function solves for one with the
others held, and returns a level that is no worse. Which bits the codes hold is `search`'s business.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem

_RIDGE = 1e-4
_TABLE_STEPS = 6


def refit(problem: Problem, level: Level, moment: Tensor, *, columns: bool = True) -> Level:
    """T, then u, then v of `level` refitted under `moment` [n, n]."""
    level = refit_rows(problem, refit_table(problem, level, moment), moment)
    return refit_columns(problem, level, moment) if columns else level


def refit_rows(problem: Problem, level: Level, moment: Tensor) -> Level:
    """One number a row: u_r = (q Hs x) / (q Hs q) with q = T[code] v. One m n² product."""
    q = level.cells() * level.v
    felt = q @ moment
    size = (felt * q).sum(1)
    u = (felt * problem.x).sum(1) / size.clamp_min(1e-20)
    return replace(level, u=torch.where(size > 1e-20, u, level.u))


def refit_columns(problem: Problem, level: Level, moment: Tensor) -> Level:
    """One number a column: (Hs ∘ FᵀRF) v = Σ_rows R F ∘ (X Hs), F = diag(u) T[code].

    R holds the row weights. Two m n² products and one n³/3 factorisation.
    """
    f = level.cells() * level.u.unsqueeze(1)
    weighted = f * problem.rows.unsqueeze(1)
    left = (moment * (weighted.T @ f)).double()
    right = (weighted * (problem.x @ moment)).sum(0).double()
    ridge = _RIDGE * left.diagonal().mean().clamp_min(1e-30)
    left.diagonal().add_(ridge)
    right += ridge * level.v
    factor, failed = torch.linalg.cholesky_ex(left)
    if failed:
        return level
    v = torch.cholesky_solve(right.unsqueeze(1), factor)[:, 0].float()
    return replace(level, v=v) if torch.isfinite(v).all() else level


def refit_table(problem: Problem, level: Level, moment: Tensor) -> Level:
    """The 2^j table values, by preconditioned conjugate gradients: one m n² product a step.

    The ridge holds values that hardly a weight uses: free, one of them grows until fp16 has no
    room left for the others.
    """
    grid = level.v * level.u.unsqueeze(1)
    weighted = grid * problem.rows.unsqueeze(1)
    size = _by_code(level, grid * weighted * moment.diagonal())
    ridge = _RIDGE * size.mean().clamp_min(1e-30) * 10
    size = size + ridge

    def felt(table: Tensor) -> Tensor:
        """The normal matrix times `table`."""
        return _by_code(level, (table[level.code.int()] * grid @ moment) * weighted) + ridge * table

    residual = _by_code(level, ((problem.x - level.values()) @ moment) * weighted)
    step, better = torch.zeros_like(residual), residual / size
    direction, gain = better, float(residual @ better)
    start = gain
    for _ in range(min(_TABLE_STEPS, len(level.table))):
        if gain <= 1e-12 * start or gain == 0:
            break
        image = felt(direction)
        length = gain / float((direction @ image).clamp_min(1e-30))
        step = step + length * direction
        residual = residual - length * image
        better = residual / size
        new = float(residual @ better)
        direction, gain = better + new / gain * direction, new
    return replace(level, table=level.table + step)


def _by_code(level: Level, x: Tensor) -> Tensor:
    """Sum of `x` [m, n] over the weights of each code, [2^j]."""
    return torch.bincount(
        level.code.flatten().int(), weights=x.flatten(), minlength=len(level.table)
    ).float()
