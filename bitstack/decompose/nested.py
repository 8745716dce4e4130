"""Builds nested codes: one set of codes whose low planes serve every level, each with own scales.

Planes are added in groups: split every cell in two by value, search the bits of the group for its
last level, refit the scales. When the first groups are done, their whole codes are chosen again
under the errors of all their levels at once, so that no level is good at the cost of another. The
scales of a level are rounded to fp16 before later planes are built on it. Levels form chains, and
every chain gets codes of its own: bits that are best for two or four planes leave some weights
outside their cells, and later planes would spend a bit or more to bring them back. Does not choose
single bits; see `decompose.search`. Does not fit scales; see `decompose.refit`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from bitstack.container.blocks import StackSpec
from bitstack.decompose.level import Level, first_scales, with_shared_codes
from bitstack.decompose.outliers import split_off
from bitstack.decompose.problem import Problem, make_problem
from bitstack.decompose.refit import refit
from bitstack.decompose.result import Decomposed
from bitstack.decompose.search import descend
from bitstack.decompose.split import split
from bitstack.kernels import packing


@dataclass(frozen=True)
class Plan:
    """How the planes are chosen: the recipe's fields of the same names.

    `damping` and `level_weights` hold a number for level 1, 2, …; the last one repeats.
    """

    blocks: int  # planes of the highest level
    ends: tuple[int, ...] = ()  # last level of every chain but the highest
    joint_planes: tuple[int, ...] = (2, 2)  # groups of the lowest chain; then planes one by one
    damping: tuple[float, ...] = (0.5, 0.5, 0.2, 0.2, 1.0, 0.3, 0.1, 0.01)  # mean diagonal is 1
    refit_rounds: int = 2  # rounds of searching a group and refitting
    search_sweeps: int = 2  # passes over all columns in each round; 0: no search
    joint_passes: int = 4  # passes over the whole codes of several levels
    level_weights: tuple[float, ...] = (1.0,)  # how much a level's relative error counts there
    refits_columns: bool = True  # False saves the most expensive part of a refit

    def damping_at(self, level: int) -> float:
        return self.damping[min(level, len(self.damping)) - 1]

    def level_weight_at(self, level: int) -> float:
        return self.level_weights[min(level, len(self.level_weights)) - 1]

    def chains(self) -> Iterator["Chain"]:
        """Yields the chains of levels that share their planes, from the lowest on."""
        lowest, *higher = [*self.ends, self.blocks]
        sizes: list[int] = []
        for size in (*self.joint_planes, *[1] * lowest):
            sizes.append(min(size, lowest - sum(sizes)))
        yield Chain(1, [size for size in sizes if size], min(sum(self.joint_planes), lowest))
        for below, end in pairwise([lowest, *higher]):
            # Levels below its first are not stored, so all planes up to there are one group.
            yield Chain(below + 1, [below + 1, *[1] * (end - below - 1)], end)


@dataclass(frozen=True)
class Chain:
    """Levels that share their planes: `first` is the lowest, `groups` counts the planes added at
    once, and the first `joint` planes are chosen again together as whole codes."""

    first: int
    groups: list[int]
    joint: int


def decompose_codes(
    weight: Tensor,
    plan: Plan,
    *,
    moment: Tensor | None = None,
    row_weights: Tensor | None = None,
    rotation: int = 0,
    outliers: Tensor | None = None,
) -> Decomposed:
    """Decomposes `weight` [m, n] into planes under E[x xᵀ] [n, n] and row weights [m].

    Args:
        rotation: The seed of the rotation of its inputs, 0 for none.
        outliers: Positions int64 [k], rising, of weights to be kept as they are.
    """
    if outliers is None or not len(outliers):
        return _decompose(make_problem(weight, moment, row_weights, rotation), plan)
    values, rest = split_off(weight, outliers)
    problem = make_problem(rest, moment, row_weights, rotation)
    done = _decompose(problem, plan)
    spec = replace(done.spec, outliers=len(outliers))
    kept = {spec.kept[0].name: outliers.to(spec.kept[0].dtype), spec.kept[1].name: values}
    whole = float(replace(problem, weight=weight).row_squares().sum())
    return replace(done, spec=spec, tensors=kept | done.tensors, mean_square=whole)


def _decompose(problem: Problem, plan: Plan) -> Decomposed:
    return pack_levels(problem, [_build_chain(problem, plan, chain) for chain in plan.chains()])


def _build_chain(problem: Problem, plan: Plan, chain: Chain) -> list[Level]:
    """The levels of one chain; those below its first are built only as steps on the way."""
    levels = [_level_zero(problem)]  # so that levels[j] has j planes
    for size in chain.groups:
        levels += _add_planes(problem, plan, levels[-1], size)
        planes = levels[-1].planes
        if planes == chain.joint and plan.search_sweeps:
            levels[chain.first :] = _choose_whole_codes(problem, plan, levels[chain.first :])
        if planes == sum(chain.groups) > chain.joint and plan.search_sweeps:
            above = levels[chain.joint + 1 :]
            levels[chain.joint + 1 :] = _choose_whole_codes(problem, plan, above, chain.joint)
        levels[1:] = with_shared_codes([level.as_stored(problem) for level in levels[1:]])
    return levels[chain.first :]


def _level_zero(problem: Problem) -> Level:
    """The level of no planes: one cell that holds all weights."""
    u, v = first_scales(problem)
    code = torch.zeros(problem.shape, dtype=torch.uint8, device=problem.device)
    return Level(code, u, v, torch.zeros(1, device=u.device), 0)


def _add_planes(problem: Problem, plan: Plan, below: Level, size: int) -> list[Level]:
    """`size` more levels on top of `below`; the bits are searched for the last of them."""
    levels: list[Level] = []
    for _ in range(size):
        level = split(problem, _refit_uncorrelated(problem, levels[-1] if levels else below))
        levels = with_shared_codes([*levels, level])
    hessian = problem.damped_hessian(plan.damping_at(levels[-1].planes))
    if plan.search_sweeps:
        levels[-1] = _refit_rounds(problem, plan, levels[-1])
    for _ in range(plan.refit_rounds if plan.search_sweeps else 0):
        for _ in range(plan.search_sweeps):
            only_last = [0.0] * (size - 1) + [1.0]
            levels = descend(problem, levels, [hessian] * size, only_last, below.planes)
        levels[-1] = refit(problem, levels[-1], hessian, columns=plan.refits_columns)
    return [_refit_rounds(problem, plan, level) for level in levels]


def _refit_uncorrelated(problem: Problem, level: Level) -> Level:
    """Refits the scales of `level` as if inputs did not correlate, to cut its cells by them.

    Where inputs correlate, a row's best scale can be next to nothing, because what its codes get
    wrong together counts most. Cells in units of such a scale end far below the row's weights, and
    no later plane would reach them.
    """
    identity = torch.ones(problem.shape[1], device=problem.device)
    return refit(problem, level, identity) if level.planes else level


def _choose_whole_codes(
    problem: Problem, plan: Plan, levels: list[Level], kept: int = 0
) -> list[Level]:
    """Chooses all bits above the first `kept` planes again, for all of `levels` at once.

    Lowers Σ_j level_weight_j · error_j / (error_j before the pass), so that a level counts by its
    relative error: those of high levels are hundreds of times smaller. The scales are refitted
    after every pass.
    """
    hessians = [problem.damped_hessian(plan.damping_at(level.planes)) for level in levels]
    level_weights = [plan.level_weight_at(level.planes) for level in levels]
    for _ in range(plan.joint_passes):
        errors = [_weighted_error(problem, level) for level in levels]
        weights = [weight / error for weight, error in zip(level_weights, errors, strict=True)]
        levels = descend(problem, levels, hessians, weights, kept)
        levels = [refit(problem, level, h) for level, h in zip(levels, hessians, strict=True)]
    return levels


def _refit_rounds(problem: Problem, plan: Plan, level: Level) -> Level:
    """Refits all scales of the level, several rounds: each of T, u, v depends on the others."""
    hessian = problem.damped_hessian(plan.damping_at(level.planes))
    for _ in range(plan.refit_rounds):
        level = refit(problem, level, hessian, columns=plan.refits_columns)
    return level


def _weighted_error(problem: Problem, level: Level) -> float:
    """Squared error of the level, rows weighted; a little above zero, as it is divided by."""
    errors = problem.row_errors(level.values) * problem.row_weights
    size = sum(float(problem.x(rows).square_().sum()) for rows in problem.panels())
    return float(errors.sum()) + 1e-12 * size + 1e-30


def pack_levels(problem: Problem, chains: list[list[Level]]) -> Decomposed:
    """Packs levels into stored tensors; the codes of one chain must agree on their planes."""
    m, n = problem.shape
    levels = [level for chain in chains for level in chain]
    ends = tuple(chain[-1].planes for chain in chains[:-1])
    spec = StackSpec("codes", m, n, len(levels), ends=ends, rotation=problem.rotation)
    tensors: dict[str, Tensor] = {}
    for chain in chains:
        top = chain[-1]
        for bit, name in enumerate(spec.planes(top.planes)):
            parts = [packing.pack(top.code[rows] >> bit & 1) for rows in problem.panels()]
            tensors[name] = torch.cat(parts)
        for level in chain:
            tensors[f"scale_{level.planes}"] = torch.cat(level.stored_scales(problem))
    errors = torch.stack([problem.row_errors(level.values) for level in levels])
    return Decomposed(spec, tensors, errors, float(problem.row_squares().sum()))
