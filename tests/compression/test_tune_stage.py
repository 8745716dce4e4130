"""What is tuned when, and which budgets a step of tuning draws."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstack.compression.tune_stage import level_draw, plan_phases
from bitstack.container.budget import Budgets
from bitstack.container.entries import StackEntry
from bitstack.recipe import load_recipe

SIZES = [[100, 200, 300, 400], [50, 100, 150, 200]]
BUDGETS = Budgets(
    stack_bytes=SIZES, fixed_bytes=0, order=[0, 1, 0, 1, 0, 1], weights=[400, 200]
)  # 600 bytes at most: 8 bits a weight
numbers = st.floats(0, 1, exclude_max=True)


@given(numbers)
def test_all_budgets_alike(number: float) -> None:
    levels = level_draw(BUDGETS, [], 150, 600)(number)
    assert BUDGETS.resident_bytes(levels) <= 150 + number * 450 + 1e-6
    assert levels == BUDGETS.levels(int(150 + number * 450))[0]


@given(numbers, st.lists(st.floats(2.2, 7.8), min_size=1, max_size=3))
def test_half_of_them_near_the_targets(number: float, targets: list[float]) -> None:
    size = BUDGETS.resident_bytes(level_draw(BUDGETS, targets, 150, 600)(number))
    if number >= 0.5:
        assert size <= 150 + (2 * number - 1) * 450 + 1e-6
    else:
        meant = targets[int(2 * number * len(targets))] * 600 / 8
        assert meant * 0.95 - 101 <= size <= meant * 1.05


def test_both_ends() -> None:
    levels = level_draw(BUDGETS, [], 300, 450)
    assert [levels(0.0), levels(1.0)] == [[2, 2], [3, 3]]


@given(numbers, st.sampled_from([[2.0], [7.0]]))
def test_targets_out_of_reach_count_for_nothing(number: float, targets: list[float]) -> None:
    assert level_draw(BUDGETS, targets, 300, 450)(number) == level_draw(BUDGETS, [], 300, 450)(
        number
    )


def entry(levels: int, ends: tuple[int, ...]) -> StackEntry:
    shape = {"name": "a", "parameter": "a", "module": "a", "kind": "linear", "format": "codes"}
    sizes = {"rows": 80, "columns": 40, "levels": levels, "ends": ends}
    return StackEntry.model_validate(shape | sizes)


def budgets(*entries: StackEntry) -> Budgets:
    return Budgets(
        stack_bytes=[e.spec.bytes() for e in entries],
        fixed_bytes=0,
        order=[i for level in range(1, 9) for i, e in enumerate(entries) if level < e.levels],
        weights=[e.rows * e.columns for e in entries],
    )


@given(st.integers(1, 3000), st.integers(1, 8), st.sets(st.integers(1, 7)))
def test_all_steps_in_phases_that_keep_more_and_more(
    steps: int, levels: int, chains: set[int]
) -> None:
    recipe = load_recipe(tune_steps=steps, blocks=levels, chains=sorted(chains))
    one = entry(levels, recipe.ends)
    *learning, highest = (chain[-1] for chain in one.spec.chains)
    planned = plan_phases(recipe, [one], budgets(one))
    if learning:
        fine = planned.pop()
        assert fine.steps == recipe.fine_steps
        assert fine.planes == ((*((end, end) for end in learning), (0, highest)),)
        assert all(phase.planes[0][-1] == (highest, highest) for phase in planned)
    assert sum(phase.steps for phase in planned) == steps
    for chain, end in enumerate(learning or [highest]):
        planes = [phase.planes[0][chain] for phase in planned]
        assert [planes[0].kept, planes[-1].moved] == [0, end]
        assert all(before.kept <= now.kept < now.moved for before, now in pairwise(planes))
        assert {p.moved for p in planes} == {p.kept for p in planes[1:] if p.kept} | {end}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (entry(8, (4,)), [(1, 4), (2, 5), (3, 6), (4, 8)]),
        (entry(6, (4,)), [(1, 4), (2, 5), (3, 6), (4, 6)]),
        (entry(8, (2, 4)), [(1, 4), (1, 5), (4, 8)]),
        (entry(8, ()), [(1, 8), (4, 8), (7, 8)]),
        (entry(3, ()), [(1, 3), (2, 3)]),
    ],
)
def test_neighbouring_levels_are_drawn_together(
    one: StackEntry, expected: list[tuple[int, int]]
) -> None:
    planned = plan_phases(load_recipe(), [one], budgets(one))
    ends = [(p.levels_at(0.0)[0], p.levels_at(1.0)[0]) for p in planned]
    assert ends == expected


def test_a_stack_with_fewer_levels_stays_at_its_top() -> None:
    entries = [entry(8, (2, 4)), entry(2, ())]
    planned: list[Any] = plan_phases(load_recipe(), entries, budgets(*entries))
    assert planned[-1].levels_at(1.0) == [8, 2]
    assert planned[-1].levels_at(0.0) == [4, 2]
