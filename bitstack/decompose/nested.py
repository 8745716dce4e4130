"""Nested codes: level by level, one more plane, then all scales of the level refitted.

Planes of earlier levels never change; every level stores its own u, v and T as fp16 and the next
one is built on what was stored.
"""

import torch
from torch import Tensor

from bitstack.blocks import StackSpec
from bitstack.decompose.level import Level, first_scales
from bitstack.decompose.problem import Problem, make_problem
from bitstack.decompose.refit import refit
from bitstack.decompose.result import Decomposed
from bitstack.decompose.split import split
from bitstack.kernels import packing


def decompose_codes(
    weight: Tensor,
    *,
    blocks: int,
    damping: list[float],
    rounds: int = 2,
    seed: int = 0,
    moment: Tensor | None = None,
    rows: Tensor | None = None,
) -> Decomposed:
    """Decompose `weight` [m, n] into `blocks` planes under E[x xᵀ] [n, n] and row weights [m].

    `damping` is what is added to the diagonal of the moment at level 1, 2, …; the last repeats.
    """
    problem = make_problem(weight, moment, rows)
    levels = []
    u, v = first_scales(problem, seed=seed)
    level = Level(torch.zeros_like(problem.x, dtype=torch.uint8), u, v, torch.zeros(1), 0)
    for j in range(blocks):
        felt = problem.damped(damping[min(j, len(damping) - 1)])
        level = split(problem, level)
        for _ in range(rounds):
            level = refit(problem, level, felt)
        level = level.stored(problem)
        levels.append(level)
    return pack_levels(problem, levels)


def pack_levels(problem: Problem, levels: list[Level]) -> Decomposed:
    """The stored tensors of nested `levels`, whose codes agree on the planes they share."""
    m, n = problem.x.shape
    top = levels[-1].code
    tensors: dict[str, Tensor] = {}
    for j, level in enumerate(levels, start=1):
        tensors[f"plane_{j}"] = packing.pack(top >> (j - 1) & 1)
        tensors[f"scale_{j}"] = torch.cat(level.numbers(problem))
    errors = torch.stack([problem.row_errors(level.values()) for level in levels])
    size = float(problem.row_errors(torch.zeros_like(problem.x)).sum())
    return Decomposed(StackSpec("codes", m, n, len(levels)), tensors, errors, size)
