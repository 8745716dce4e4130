"""Which budgets a step of tuning draws."""

from hypothesis import given
from hypothesis import strategies as st

from bitstack.budget import Budgets
from bitstack.tuning import draw

SIZES = [[100, 200, 300, 400], [50, 100, 150, 200]]
BUDGETS = Budgets(
    stack_bytes=SIZES, fixed_bytes=0, order=[0, 1, 0, 1, 0, 1], weights=[400, 200]
)  # 600 bytes at most: 8 bits a weight
numbers = st.floats(0, 1, exclude_max=True)


@given(numbers)
def test_all_budgets_alike(number: float) -> None:
    levels = draw(BUDGETS, [])(number)
    assert BUDGETS.resident_bytes(levels) <= 150 + number * 450 + 1e-6
    assert levels == BUDGETS.levels(int(150 + number * 450))[0]


@given(numbers, st.lists(st.floats(2.2, 7.8), min_size=1, max_size=3))
def test_half_of_them_near_the_targets(number: float, targets: list[float]) -> None:
    found = BUDGETS.resident_bytes(draw(BUDGETS, targets)(number))
    if number >= 0.5:
        assert found <= 150 + (2 * number - 1) * 450 + 1e-6
    else:
        meant = targets[int(2 * number * len(targets))] * 600 / 8
        assert meant * 0.95 - 101 <= found <= meant * 1.05


def test_both_ends() -> None:
    assert draw(BUDGETS, [])(0.0) == [1, 1]
    assert draw(BUDGETS, [1.0])(0.1) == [1, 1]  # below the floor
    assert draw(BUDGETS, [16.0])(0.1) == [4, 4]
