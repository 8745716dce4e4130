"""What is tuned with what, and which budgets a step of tuning draws."""

from hypothesis import given
from hypothesis import strategies as st

from bitstack.budget import Budgets
from bitstack.container.manifest import StackEntry
from bitstack.recipe import load_recipe
from bitstack.tuning import draw, phases, span

SIZES = [[100, 200, 300, 400], [50, 100, 150, 200]]
BUDGETS = Budgets(
    stack_bytes=SIZES, fixed_bytes=0, order=[0, 1, 0, 1, 0, 1], weights=[400, 200]
)  # 600 bytes at most: 8 bits a weight
SPANS = [range(1, 5), range(1, 5)]
numbers = st.floats(0, 1, exclude_max=True)


@given(numbers)
def test_all_budgets_alike(number: float) -> None:
    levels = draw(BUDGETS, SPANS, [])(number)
    assert BUDGETS.resident_bytes(levels) <= 150 + number * 450 + 1e-6
    assert levels == BUDGETS.levels(int(150 + number * 450))[0]


@given(numbers, st.lists(st.floats(2.2, 7.8), min_size=1, max_size=3))
def test_half_of_them_near_the_targets(number: float, targets: list[float]) -> None:
    found = BUDGETS.resident_bytes(draw(BUDGETS, SPANS, targets)(number))
    if number >= 0.5:
        assert found <= 150 + (2 * number - 1) * 450 + 1e-6
    else:
        meant = targets[int(2 * number * len(targets))] * 600 / 8
        assert meant * 0.95 - 101 <= found <= meant * 1.05


def test_both_ends() -> None:
    assert draw(BUDGETS, SPANS, [])(0.0) == [1, 1]
    assert draw(BUDGETS, SPANS, [])(1.0) == [4, 4]


@given(numbers, st.sampled_from([[1.0], [16.0]]))
def test_targets_out_of_reach_count_for_nothing(number: float, targets: list[float]) -> None:
    assert draw(BUDGETS, SPANS, targets)(number) == draw(BUDGETS, SPANS, [])(number)


@given(numbers, st.integers(1, 3))
def test_what_stays_is_where_the_draw_begins(number: float, kept: int) -> None:
    levels = draw(BUDGETS, SPANS, [], kept)(number)
    least = BUDGETS.resident_bytes([kept, kept])
    assert BUDGETS.resident_bytes(levels) > least - 100  # of a block
    assert draw(BUDGETS, SPANS, [], kept)(0.0) == BUDGETS.levels(least)[0]
    assert draw(BUDGETS, SPANS, [], kept)(1.0) == [4, 4]


def test_levels_are_counted_from_the_first_of_a_span() -> None:
    """Stack 1 has no finer planes and stays at its top."""
    budgets = Budgets(
        stack_bytes=[SIZES[0], [200]], fixed_bytes=0, order=[0, 0, 0], weights=[400, 200]
    )
    levels = draw(budgets, [range(5, 9), range(4, 5)], [])
    assert levels(0.0) == [5, 4]
    assert levels(1.0) == [8, 4]


@given(st.integers(1, 3000), st.integers(1, 8))
def test_all_steps_in_phases_that_keep_more_and_more(steps: int, top: int) -> None:
    recipe = load_recipe(tune_steps=steps)
    found = phases(recipe, BUDGETS, SPANS, top)
    assert sum(phase.steps for phase in found) == steps
    kept = [phase.kept for phase in found]
    assert kept[0] == 0
    assert kept == sorted(set(kept))
    assert kept[-1] == top - 1
    (fine,) = phases(recipe, BUDGETS, SPANS, 0)
    assert (fine.steps, fine.kept) == (recipe.fine_steps, 0)


def entry(**fields: object) -> StackEntry:
    shape = {"name": "a", "parameter": "a", "module": "a", "kind": "linear", "rows": 8}
    return StackEntry.model_validate(shape | {"columns": 8, "format": "codes"} | fields)


def test_embedding_and_head_hold_all_their_planes_from_the_start() -> None:
    inside, outside = entry(layer=0, levels=8, base=4), entry(levels=8, base=4)
    assert [span(inside, i) for i in (0, 1)] == [range(1, 5), range(5, 9)]
    assert [span(outside, i) for i in (0, 1)] == [range(1, 9), range(5, 9)]
    assert span(entry(layer=0, levels=3), 1) == range(3, 4)
