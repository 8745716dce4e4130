"""Nested codes: one set of codes whose low planes serve every level, each with its own scales.

Planes are added in groups: split, search the group's bits for its last level, refit. When the first
groups are done their whole codes are chosen again with the errors of all their levels. Every
level's scales are stored as fp16 and later planes are built on what was stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bitstack.blocks import StackSpec
from bitstack.decompose.level import Level, first_scales, shared
from bitstack.decompose.problem import Problem, make_problem
from bitstack.decompose.refit import refit
from bitstack.decompose.result import Decomposed
from bitstack.decompose.search import descend
from bitstack.decompose.split import split
from bitstack.kernels import packing
from bitstack.kernels.reference import split_scale


@dataclass(frozen=True)
class Plan:
    """How the planes are chosen.

    `together`: planes added at once, group by group; after them one by one. `damping`: added to
    the mean diagonal of the moment at level 1, 2, …, the last repeats. `rounds` of `sweeps` of
    bit search and a refit for each group, then `passes` over the whole codes of all groups, and
    as many over the planes above them, with `preference` for level 1, 2, … (the relative weight of
    its relative error), the last repeats.
    """

    blocks: int
    together: tuple[int, ...] = (2, 2)
    damping: tuple[float, ...] = (0.5, 0.5, 0.2, 0.2, 0.1, 0.03, 0.01)
    rounds: int = 2
    sweeps: int = 2
    passes: int = 4
    preference: tuple[float, ...] = (1.0,)

    def damping_at(self, level: int) -> float:
        return self.damping[min(level, len(self.damping)) - 1]

    def preference_at(self, level: int) -> float:
        return self.preference[min(level, len(self.preference)) - 1]

    def groups(self, done: int = 0) -> list[int]:
        """Sizes of the groups above the first `done` planes, the last ones single planes: with
        `done` they add up to `blocks`."""
        sizes: list[int] = []
        for size in [1] * self.blocks if done else (*self.together, *[1] * self.blocks):
            sizes.append(min(size, self.blocks - done - sum(sizes)))
        return [size for size in sizes if size]


def decompose_codes(
    weight: Tensor,
    plan: Plan,
    *,
    moment: Tensor | None = None,
    rows: Tensor | None = None,
    below: Mapping[str, Tensor] | None = None,
) -> Decomposed:
    """Decompose `weight` [m, n] into planes under E[x xᵀ] [n, n] and row weights [m].

    With `below`, the stored tensors of its first planes (all the groups of `plan.together`), these
    stay as they are and only those above are chosen.
    """
    problem = make_problem(weight, moment, rows)
    levels = [_nothing(problem), *(unpack_levels(problem, below) if below else [])]
    joint = min(sum(plan.together), plan.blocks)
    for size in plan.groups(levels[-1].planes):
        levels += _group(problem, plan, levels[-1], size)
        if levels[-1].planes == joint and plan.sweeps:
            levels[1:] = _whole_codes(problem, plan, levels[1:])
        if levels[-1].planes == plan.blocks > joint and plan.sweeps:
            levels[joint + 1 :] = _whole_codes(problem, plan, levels[joint + 1 :], joint)
        levels[1:] = shared([level.stored(problem) for level in levels[1:]])
    return pack_levels(problem, levels[1:])


def _nothing(problem: Problem) -> Level:
    """The level of no planes."""
    u, v = first_scales(problem)
    code = torch.zeros(problem.shape, dtype=torch.uint8, device=problem.device)
    return Level(code, u, v, torch.zeros(1, device=u.device), 0)


def _group(problem: Problem, plan: Plan, below: Level, size: int) -> list[Level]:
    """`size` more levels on `below`; bits searched for the last of them."""
    levels: list[Level] = []
    for _ in range(size):
        level = split(problem, levels[-1] if levels else below)
        levels = shared([*levels, _settled(problem, plan, level)])
    felt = problem.damped(plan.damping_at(levels[-1].planes))
    for _ in range(plan.rounds if plan.sweeps else 0):
        for _ in range(plan.sweeps):
            levels = descend(
                problem, levels, [felt] * size, [0.0] * (size - 1) + [1.0], below.planes
            )
        levels[-1] = refit(problem, levels[-1], felt)
    return [_settled(problem, plan, level) for level in levels]


def _whole_codes(problem: Problem, plan: Plan, levels: list[Level], kept: int = 0) -> list[Level]:
    """All bits above the first `kept` planes chosen again: the sum over `levels` of
    preference · error / present error falls."""
    felt = [problem.damped(plan.damping_at(level.planes)) for level in levels]
    liked = [plan.preference_at(level.planes) for level in levels]
    for _ in range(plan.passes):
        errors = [_error(problem, level) for level in levels]
        weights = [like / error for like, error in zip(liked, errors, strict=True)]
        levels = descend(problem, levels, felt, weights, kept)
        levels = [refit(problem, level, h) for level, h in zip(levels, felt, strict=True)]
    return levels


def _settled(problem: Problem, plan: Plan, level: Level) -> Level:
    """All scales of the level refitted for the codes it has."""
    felt = problem.damped(plan.damping_at(level.planes))
    for _ in range(plan.rounds):
        level = refit(problem, level, felt)
    return level


def _error(problem: Problem, level: Level) -> float:
    errors = problem.row_errors(level.values) * problem.rows
    size = sum(float(problem.x(rows).square_().sum()) for rows in problem.panels())
    return float(errors.sum()) + 1e-12 * size + 1e-30


def unpack_levels(problem: Problem, tensors: Mapping[str, Tensor]) -> list[Level]:
    """The levels of which `pack_levels` made `tensors`."""
    m, n = problem.shape
    count = len(tensors) // 2
    planes = [tensors[f"plane_{j}"].to(problem.device) for j in range(1, count + 1)]
    code = packing.codes(planes, n)
    levels = []
    for j in range(1, count + 1):
        scale = tensors[f"scale_{j}"].to(problem.device).float()
        u, v, table = split_scale(scale, m, n)
        levels.append(Level(code, u, v * problem.scale, table, j))
    return levels


def pack_levels(problem: Problem, levels: list[Level]) -> Decomposed:
    """The stored tensors of nested `levels`, whose codes agree on the planes they share."""
    m, n = problem.shape
    top = levels[-1].code
    tensors: dict[str, Tensor] = {}
    for j, level in enumerate(levels, start=1):
        parts = [packing.pack(top[rows] >> (j - 1) & 1) for rows in problem.panels()]
        tensors[f"plane_{j}"] = torch.cat(parts)
        tensors[f"scale_{j}"] = torch.cat(level.numbers(problem))
    errors = torch.stack([problem.row_errors(level.values) for level in levels])
    size = float(problem.sizes().sum())
    return Decomposed(StackSpec("codes", m, n, len(levels)), tensors, errors, size)
