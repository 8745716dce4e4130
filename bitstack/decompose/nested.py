"""Nested codes: one set of codes whose low planes serve every level, each with its own scales.

Planes are added in groups: split by value, search the group's bits for its last level, refit. When
the first groups are done their whole codes are chosen again with the errors of all their levels.
Every level's scales are stored as fp16 and later planes are built on what was stored. Higher chains
of levels get codes of their own in the same way: bits that are best for two or four planes leave
weights outside their cells, where later planes would spend a bit or more to bring them back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from bitstack.container.blocks import StackSpec
from bitstack.decompose.level import Level, first_scales, shared
from bitstack.decompose.problem import Problem, make_problem
from bitstack.decompose.refit import refit
from bitstack.decompose.result import Decomposed
from bitstack.decompose.search import descend
from bitstack.decompose.split import split
from bitstack.kernels import packing


@dataclass(frozen=True)
class Plan:
    """How the planes are chosen.

    `ends`: the last level of every chain but the highest. `together`: planes of the lowest chain
    added at once, group by group; after them one by one. `damping`: added to the mean diagonal of
    the moment at level 1, 2, …, the last repeats. `rounds` of `sweeps` of bit search and a refit
    for each group, then `passes` over the whole codes of all groups, and as many over the planes
    above them, with `preference` for level 1, 2, … (the relative weight of its relative error), the
    last repeats.
    """

    blocks: int
    ends: tuple[int, ...] = ()
    joint_planes: tuple[int, ...] = (2, 2)
    damping: tuple[float, ...] = (0.5, 0.5, 0.2, 0.2, 1.0, 0.3, 0.1, 0.01)
    refit_rounds: int = 2
    search_sweeps: int = 2
    joint_passes: int = 4
    level_weights: tuple[float, ...] = (1.0,)

    def damping_at(self, level: int) -> float:
        return self.damping[min(level, len(self.damping)) - 1]

    def preference_at(self, level: int) -> float:
        return self.level_weights[min(level, len(self.level_weights)) - 1]

    def chains(self) -> Iterator["Chain"]:
        """The levels that share their planes, from the lowest on."""
        lowest, *higher = [*self.ends, self.blocks]
        sizes: list[int] = []
        for size in (*self.joint_planes, *[1] * lowest):
            sizes.append(min(size, lowest - sum(sizes)))
        yield Chain(1, [size for size in sizes if size], min(sum(self.joint_planes), lowest))
        for below, end in pairwise([lowest, *higher]):
            yield Chain(below + 1, [below + 1, *[1] * (end - below - 1)], end)


@dataclass(frozen=True)
class Chain:
    """Levels that share their planes: `first` is the lowest, `groups` the planes added at once, of
    which the first `joint` are chosen again as whole codes."""

    first: int
    groups: list[int]
    joint: int


def decompose_codes(
    weight: Tensor,
    plan: Plan,
    *,
    moment: Tensor | None = None,
    rows: Tensor | None = None,
) -> Decomposed:
    """Decompose `weight` [m, n] into planes under E[x xᵀ] [n, n] and row weights [m]."""
    problem = make_problem(weight, moment, rows)
    return pack_levels(problem, [_chain(problem, plan, chain) for chain in plan.chains()])


def _chain(problem: Problem, plan: Plan, chain: Chain) -> list[Level]:
    """The levels of one chain. Those below its first stand in it only as steps on the way."""
    levels = [_nothing(problem)]
    for size in chain.groups:
        levels += _group(problem, plan, levels[-1], size)
        planes = levels[-1].planes
        if planes == chain.joint and plan.search_sweeps:
            levels[chain.first :] = _whole_codes(problem, plan, levels[chain.first :])
        if planes == sum(chain.groups) > chain.joint and plan.search_sweeps:
            above = levels[chain.joint + 1 :]
            levels[chain.joint + 1 :] = _whole_codes(problem, plan, above, chain.joint)
        levels[1:] = shared([level.stored(problem) for level in levels[1:]])
    return levels[chain.first :]


def _nothing(problem: Problem) -> Level:
    """The level of no planes."""
    u, v = first_scales(problem)
    code = torch.zeros(problem.shape, dtype=torch.uint8, device=problem.device)
    return Level(code, u, v, torch.zeros(1, device=u.device), 0)


def _group(problem: Problem, plan: Plan, below: Level, size: int) -> list[Level]:
    """`size` more levels on `below`; bits searched for the last of them."""
    levels: list[Level] = []
    for _ in range(size):
        level = split(problem, _unmixed(problem, levels[-1] if levels else below))
        levels = shared([*levels, level])
    felt = problem.damped(plan.damping_at(levels[-1].planes))
    if plan.search_sweeps:
        levels[-1] = _settled(problem, plan, levels[-1])
    for _ in range(plan.refit_rounds if plan.search_sweeps else 0):
        for _ in range(plan.search_sweeps):
            levels = descend(
                problem, levels, [felt] * size, [0.0] * (size - 1) + [1.0], below.planes
            )
        levels[-1] = refit(problem, levels[-1], felt)
    return [_settled(problem, plan, level) for level in levels]


def _unmixed(problem: Problem, level: Level) -> Level:
    """The scales of `level` refitted as if inputs did not correlate: those that cells are cut by.

    Where inputs correlate a row's best scale can be next to nothing, because what its codes get
    wrong together counts most. Cells in units of such a scale end far below the row's weights, and
    no later plane would reach them.
    """
    alike = torch.ones(problem.shape[1], device=problem.device)
    return refit(problem, level, alike) if level.planes else level


def _whole_codes(problem: Problem, plan: Plan, levels: list[Level], kept: int = 0) -> list[Level]:
    """All bits above the first `kept` planes chosen again: the sum over `levels` of
    preference · error / present error falls."""
    felt = [problem.damped(plan.damping_at(level.planes)) for level in levels]
    liked = [plan.preference_at(level.planes) for level in levels]
    for _ in range(plan.joint_passes):
        errors = [_error(problem, level) for level in levels]
        weights = [like / error for like, error in zip(liked, errors, strict=True)]
        levels = descend(problem, levels, felt, weights, kept)
        levels = [refit(problem, level, h) for level, h in zip(levels, felt, strict=True)]
    return levels


def _settled(problem: Problem, plan: Plan, level: Level) -> Level:
    """All scales of the level refitted for the codes it has."""
    felt = problem.damped(plan.damping_at(level.planes))
    for _ in range(plan.refit_rounds):
        level = refit(problem, level, felt)
    return level


def _error(problem: Problem, level: Level) -> float:
    errors = problem.row_errors(level.values) * problem.rows
    size = sum(float(problem.x(rows).square_().sum()) for rows in problem.panels())
    return float(errors.sum()) + 1e-12 * size + 1e-30


def pack_levels(problem: Problem, chains: list[list[Level]]) -> Decomposed:
    """The stored tensors of levels, chain by chain; codes of one chain agree on their planes."""
    m, n = problem.shape
    levels = [level for chain in chains for level in chain]
    ends = tuple(chain[-1].planes for chain in chains[:-1])
    spec = StackSpec("codes", m, n, len(levels), ends=ends)
    tensors: dict[str, Tensor] = {}
    for chain in chains:
        top = chain[-1]
        for bit, name in enumerate(spec.planes(top.planes)):
            parts = [packing.pack(top.code[rows] >> bit & 1) for rows in problem.panels()]
            tensors[name] = torch.cat(parts)
        for level in chain:
            tensors[f"scale_{level.planes}"] = torch.cat(level.numbers(problem))
    errors = torch.stack([problem.row_errors(level.values) for level in levels])
    return Decomposed(spec, tensors, errors, float(problem.sizes().sum()))
