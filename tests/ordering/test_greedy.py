"""The order of blocks: hull, prefixes, corrections, and the published sort."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstack.ordering.greedy import (
    best_path,
    corrected_by_role,
    interpolated_orders,
    perplexity_order,
    predicted_order,
)

Sizes, Losses = list[list[int]], list[list[float]]


@st.composite
def stacks(draw: st.DrawFn, most: int = 5, levels: int = 6) -> tuple[Sizes, Losses]:
    """Rising bytes; losses that mostly fall, with bumps and ties."""
    sizes, losses = [], []
    for _ in range(draw(st.integers(1, most))):
        count = draw(st.integers(1, levels))
        steps = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
        sizes.append([sum(steps[: i + 1]) for i in range(count)])
        falls = draw(st.lists(st.integers(-2, 20), min_size=count, max_size=count))
        losses.append([float(60 - sum(falls[: i + 1])) for i in range(count)])
    return sizes, losses


def walk(sizes: Sizes, losses: Losses, order: list[int]) -> list[tuple[int, float]]:
    """(bytes, loss) of every prefix; a level counts as its best so far."""
    best = [[min(own[: i + 1]) for i in range(len(own))] for own in losses]
    levels = [0] * len(sizes)
    points = []
    for step in [None, *order]:
        if step is not None:
            levels[step] += 1
        points.append(
            (
                sum(s[level] for s, level in zip(sizes, levels, strict=True)),
                sum(b[level] for b, level in zip(best, levels, strict=True)),
            )
        )
    return points


def slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (a[1] - b[1]) / (b[0] - a[0])


@given(stacks())
def test_every_block_once(data: tuple[Sizes, Losses]) -> None:
    sizes, losses = data
    order = predicted_order(sizes, losses)
    assert sorted(order) == [i for i, own in enumerate(sizes) for _ in own[1:]]


@given(stacks())
def test_slopes_fall(data: tuple[Sizes, Losses]) -> None:
    """Each run of steps on one edge of its stack's hull, found by gift wrapping, saves no more
    per byte than the run before it."""
    sizes, losses = data
    hulls = [dict(edges(s, e)) for s, e in zip(sizes, losses, strict=True)]
    levels = [0] * len(sizes)
    saved = []
    for stack in predicted_order(sizes, losses):
        saved.append(hulls[stack].get(levels[stack], 0.0))
        levels[stack] += 1
    assert all(a >= b - 1e-9 for a, b in pairwise(saved))


def edges(sizes: list[int], losses: list[float]) -> list[tuple[int, float]]:
    """(level index, slope of the hull's edge that leaves or crosses it) up to the lowest loss."""
    hull = lower_hull(list(zip(sizes, losses, strict=True)))
    at = [sizes.index(size) for size, _ in hull]
    return [
        (level, slope(hull[i], hull[i + 1]))
        for i, (a, b) in enumerate(pairwise(at))
        for level in range(a, b)
    ]


@given(stacks(most=3, levels=4))
def test_a_prefix_on_the_hull_is_the_best_model_of_its_size(data: tuple[Sizes, Losses]) -> None:
    sizes, losses = data
    points = walk(sizes, losses, predicted_order(sizes, losses))
    best = [[min(own[: i + 1]) for i in range(len(own))] for own in losses]
    choices = [
        (
            sum(s[level] for s, level in zip(sizes, levels, strict=True)),
            sum(b[level] for b, level in zip(best, levels, strict=True)),
        )
        for levels in product(*(range(len(own)) for own in sizes))
    ]
    for size, loss in lower_hull(choices):
        assert any(p[0] == size and p[1] <= loss + 1e-9 for p in points)
    for size, loss in lower_hull(points):
        assert loss <= min(other for bytes, other in choices if bytes <= size) + 1e-9


def lower_hull(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Corners of the lower convex hull, up to the lowest point: gift wrapping."""
    cheapest: dict[int, float] = {}
    for size, loss in points:
        cheapest[size] = min(loss, cheapest.get(size, loss))
    rest = sorted(cheapest.items())
    hull = [rest[0]]
    while True:
        later = [p for p in rest if p[0] > hull[-1][0] and p[1] < hull[-1][1]]
        if not later:
            return hull
        steepest = max(slope(hull[-1], p) for p in later)
        hull.append(max(p for p in later if slope(hull[-1], p) >= steepest - 1e-12))


def test_a_level_that_only_pays_together_with_the_next() -> None:
    """Stack 0 gains nothing at level 2 and much at 3: both its steps come before stack 1's."""
    order = predicted_order([[10, 20, 30], [10, 20]], [[9.0, 9.0, 1.0], [9.0, 7.0]])
    assert order == [0, 0, 1]


def test_bytes_count() -> None:
    assert predicted_order([[10, 110], [10, 20]], [[5.0, 0.0], [5.0, 4.0]]) == [1, 0]


def test_one_level_is_no_step() -> None:
    assert predicted_order([[10], [10, 12]], [[1.0], [1.0, 0.5]]) == [1]


def test_corrections_scale_each_level_of_a_role_to_what_was_measured() -> None:
    """Role a costs twice what is predicted (level 1 ten times), b a quarter; c stays as it is."""
    losses = [
        [4.0, 2.0, 1.0, 0.0],
        [4.0, 2.0, 1.0, 0.0],
        [8.0, 3.0, 1.0, 0.0],
        [1.0, 1.0, 1.0, 1.0],
    ]
    roles = ["a", "a", "b", "c"]
    measured_at: list[list[int]] = []

    def measure(levels: list[int]) -> float:
        measured_at.append(levels)
        predicted = [own[level - 1] for own, level in zip(losses, levels, strict=True)]
        factor = 10 if levels[0] == 1 else 2
        return 7 + factor * (predicted[0] + predicted[1]) + predicted[2] / 4

    fixed = corrected_by_role(losses, roles, measure)
    assert fixed[:2] == [[40.0, 4.0, 2.0, 0.0]] * 2
    assert fixed[2:] == [[2.0, 0.75, 0.25, 0.0], [1.0, 1.0, 1.0, 1.0]]
    tops = [4, 4, 4, 4]
    of_role = {"a": [0, 1], "b": [2], "c": [3]}
    one_role = [
        [level if i in members else 4 for i in range(4)]
        for members in of_role.values()
        for level in (3, 2, 1)
    ]
    assert measured_at == [tops, *one_role]


@given(stacks())
def test_from_what_is_predicted_to_what_is_measured(data: tuple[Sizes, Losses]) -> None:
    sizes, losses = data
    predicted = [[abs(loss) + 1 for loss in own] for own in losses]
    measured = [[loss * 10 ** (i % 3) for loss in own] for i, own in enumerate(predicted)]
    orders = interpolated_orders(sizes, predicted, measured)
    assert orders[0] == predicted_order(sizes, predicted)
    assert predicted_order(sizes, measured) in orders
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)


def test_half_way_between() -> None:
    """By prediction the first stack gains 16 a byte and the second 5; as measured 1 and 5."""
    sizes, predicted, measured = [[10, 11], [10, 11]], [[17.0, 1.0], [6.0, 1.0]], [[2.0, 1.0]]
    assert interpolated_orders(sizes, predicted, [*measured, [6.0, 1.0]]) == [[0, 1], [1, 0]]


def test_the_path_nearest_to_the_original_at_all_sizes_together() -> None:
    measured_at: list[list[int]] = []
    losses = {(1, 1): 8.0, (2, 1): 1.0, (1, 2): 2.0, (2, 2): 1e-3, (3, 1): 1e-2, (3, 2): 0.0}

    def measure(levels: list[int]) -> float:
        measured_at.append(levels)
        return losses[tuple(levels)]

    paths = [[[1, 2], [2, 2]], [[2, 1], [3, 1]], [[2, 1], [2, 2]], [[2, 1], [2, 2]]]
    assert best_path(paths, measure) == 2
    assert sorted(measured_at) == [[1, 2], [2, 1], [2, 2], [3, 1]]  # each of them once
    assert best_path([[[1, 1], [2, 2]], [[1, 1], [3, 2]]], measure) == 1  # the original itself
    measured_at.clear()
    assert best_path([[[1, 1]]], measure) == 0
    assert not measured_at  # nothing to choose from


@pytest.mark.parametrize(("rise", "factor"), [(1000.0, 30.0), (1e-6, 1 / 30), (-1.0, 1.0)])
def test_a_measurement_is_trusted_within_bounds(rise: float, factor: float) -> None:
    fixed = corrected_by_role(
        [[4.0, 2.0, 0.0]], ["a"], lambda levels: rise if levels != [3] else 0.0
    )
    assert fixed == [[4.0 * factor, 2.0 * factor, 0.0]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_published_sort(tops: list[int], random) -> None:  # type: ignore[no-untyped-def]
    """arXiv 2410.23918: with all stacks at b, one at a time at b + 1; ascending; concatenated."""
    known: dict[tuple[int, ...], float] = {}

    def measure(levels: list[int]) -> float:
        return known.setdefault(tuple(levels), random.random())

    order = perplexity_order(tops, measure)
    assert len(known) == sum(top - 1 for top in tops)
    expected = []
    for b in range(1, max(tops)):
        scores = {}
        for stack, top in enumerate(tops):
            if top > b:
                levels = [min(b, t) for t in tops]
                levels[stack] = b + 1
                scores[stack] = known[tuple(levels)]
        expected += sorted(scores, key=lambda stack: scores[stack])
    assert order == expected
