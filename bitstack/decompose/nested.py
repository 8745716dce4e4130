"""Builds nested codes: one set of codes whose low planes serve every level, each with own scales.

Planes are added in groups: cut every cell by value, search the bits of the group for its last
level, refit the scales. When the first groups are done, their whole codes are chosen again under
the errors of all their levels at once, so that no level is good at the cost of another. Levels form
chains, and every chain gets codes of its own: bits that are best for two or four planes leave some
weights outside their cells, and later planes would spend a bit or more to bring them back. Works on
rows that fit into memory; see `decompose.rows` for the others. Does not choose single bits; see
`decompose.search`. Does not fit scales; see `decompose.refit`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch

from bitstack.decompose.level import Level, first_columns, first_rows
from bitstack.decompose.problem import Problem
from bitstack.decompose.refit import refit, refit_uncorrelated
from bitstack.decompose.search import descend
from bitstack.decompose.shared import Shared
from bitstack.decompose.split import split

REFIT_EVERY = 2  # passes over whole codes


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
    joint_levels: int = 8  # highest level of the chains that take them
    level_weights: tuple[float, ...] = (1.0,)  # how much a level's relative error counts there

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
        joint = min(sum(self.joint_planes), lowest) if lowest <= self.joint_levels else 0
        yield Chain(1, [size for size in sizes if size], joint)
        for below, end in pairwise([lowest, *higher]):
            # Levels below its first are not stored, so all planes up to there are one group.
            joint = end if end <= self.joint_levels else 0
            yield Chain(below + 1, [below + 1, *[1] * (end - below - 1)], joint)


@dataclass(frozen=True)
class Chain:
    """Levels that share their planes: `first` is the lowest, `groups` counts the planes added at
    once, and the first `joint` planes are chosen again together as whole codes, then those above;
    0: none are."""

    first: int
    groups: list[int]
    joint: int

    def joint_levels(self) -> Iterator[tuple[int, range]]:
        """Yields, for each choice of whole codes, the planes that stay, and the levels."""
        if not self.joint:
            return
        yield 0, range(self.first, self.joint + 1)
        if self.joint < sum(self.groups):
            yield self.joint, range(self.joint + 1, sum(self.groups) + 1)


def build_levels(problem: Problem, plan: Plan, shared: Shared) -> list[Level]:
    """Returns all levels of `plan`, from one plane on, for the rows of `problem`."""
    return [
        level for chain in plan.chains() for level in _build_chain(problem, plan, chain, shared)
    ]


def build_level(problem: Problem, plan: Plan, planes: int) -> Level:
    """Returns one level of `planes` planes after one pass of the search: a quick look."""
    quick = replace(plan, refit_rounds=1, search_sweeps=min(plan.search_sweeps, 1))
    shared = Shared()
    level = _add_planes(problem, quick, _level_zero(problem, shared), planes, shared)[-1]
    return _refit_stale(problem, quick, level, shared)


def _build_chain(problem: Problem, plan: Plan, chain: Chain, shared: Shared) -> list[Level]:
    """The levels of one chain; those below its first are only steps on the way."""
    levels = [_level_zero(problem, shared)]  # so that levels[j] has j planes
    joint = {levels[-1]: (kept, levels) for kept, levels in chain.joint_levels()}
    for size in chain.groups:
        levels += _add_planes(problem, plan, levels[-1], size, shared)
        # The low planes of the new codes are those of the levels below, whose products still hold.
        levels[1:] = [replace(level, code=levels[-1].code) for level in levels[1:]]
        kept, chosen = joint.get(levels[-1].planes, (0, range(0)))
        if chosen and plan.search_sweeps and plan.joint_passes:
            some = [levels[j] for j in chosen]
            levels[chosen[0] :] = _choose_whole_codes(problem, plan, some, kept, shared)
    done = [_refit_stale(problem, plan, level, shared) for level in levels[chain.first :]]
    return [replace(level, product=None) for level in done]  # each is as large as the matrix


def _level_zero(problem: Problem, shared: Shared) -> Level:
    """The level of no planes: one cell that holds all weights."""
    v = shared.settle(lambda: first_columns(problem))
    code = torch.zeros(problem.shape, dtype=torch.uint8, device=problem.device)
    return Level(code, first_rows(problem, v), v, torch.zeros(1, device=v.device), 0)


def _add_planes(
    problem: Problem, plan: Plan, below: Level, size: int, shared: Shared
) -> list[Level]:
    """`size` more levels on top of `below`; the bits are searched for the last of them."""
    levels: list[Level] = []
    for _ in range(size):
        base = levels[-1] if levels else below
        base = refit_uncorrelated(problem, base, shared) if base.planes else base
        levels.append(split(problem, base, shared))
    levels = [replace(level, code=levels[-1].code) for level in levels]
    damping = plan.damping_at(levels[-1].planes)
    top = levels[-1]
    rounds, sweeps = plan.refit_rounds, plan.search_sweeps
    if problem.space.moment.ndim == 1:  # columns are independent: one sweep has found the best
        rounds, sweeps = rounds * sweeps, 1
    for _ in range(rounds if sweeps else 0):
        top = top.with_product(problem)
        for _ in range(sweeps):
            top = descend(problem, [top], [damping], [1.0], below.planes)[0]
        top = refit(problem, top, damping, shared)
    return [*levels[:-1], top]


def _refit_stale(problem: Problem, plan: Plan, level: Level, shared: Shared) -> Level:
    """Refits the scales of a level whose codes have changed since, or that never had a refit."""
    if level.product is not None:
        return level
    level = refit_uncorrelated(problem, level, shared)
    for _ in range(plan.refit_rounds):
        level = refit(problem, level, plan.damping_at(level.planes), shared)
    return level


def _choose_whole_codes(
    problem: Problem, plan: Plan, levels: list[Level], kept: int, shared: Shared
) -> list[Level]:
    """Chooses all bits above the first `kept` planes again, for all of `levels` at once.

    Lowers Σ_j level_weight_j · error_j / (error_j before the pass), so that a level counts by its
    relative error: those of high levels are hundreds of times smaller. The scales are refitted
    after every second pass, counted from the last: after every pass takes a fifth more time for
    the same error.
    """
    dampings = [plan.damping_at(level.planes) for level in levels]
    level_weights = [plan.level_weight_at(level.planes) for level in levels]
    levels = [
        level if level.product is not None else refit_uncorrelated(problem, level, shared)
        for level in levels
    ]
    for left in reversed(range(plan.joint_passes)):
        levels = [level.with_product(problem) for level in levels]
        errors = shared.settle(partial(_weighted_errors, problem, levels))
        weights = [weight / error for weight, error in zip(level_weights, errors, strict=True)]
        levels = descend(problem, levels, dampings, weights, kept)
        if left % REFIT_EVERY == 0:
            levels = [
                refit(problem, level, damping, shared)
                for level, damping in zip(levels, dampings, strict=True)
            ]
    return levels


def _weighted_errors(problem: Problem, levels: list[Level]) -> list[float]:
    """Squared errors of levels, rows weighted; a little above zero, as they are divided by."""
    least = 1e-12 * float(problem.x.square().sum()) + 1e-30
    return [float(level.row_errors(problem) @ problem.row_weights) + least for level in levels]
