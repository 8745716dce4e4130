"""The order of blocks: hull, prefixes, corrections, and the published sort."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstack.order import corrected, perplexity_order, predicted_order

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


LOSSES = [[4.0, 2.0, 1.0, 0.0], [4.0, 1.0, 0.5, 0.0], [8.0, 3.0, 1.0, 0.0], [1.0, 0.5, 0.25, 0.0]]
ROLES, INSIDE = ["a", "a", "b", "c"], [True, True, True, False]


def tuned_together(levels: list[int]) -> float:
    """Stacks of the layers at one level make up for one another's errors: half is lost then."""
    own = [losses[level - 1] for losses, level in zip(LOSSES, levels, strict=True)]
    alike = len(set(levels[:3])) == 1
    return 7 + (0.5 if alike else 1) * sum(own[:3]) + 3 * own[3]


def test_together_the_layers_lose_what_was_measured() -> None:
    """Of all of them at any level, as of embedding and head, the corrected loss is the measured."""
    fixed = corrected(LOSSES, ROLES, INSIDE, tuned_together)
    for level in range(1, 5):
        alike = tuned_together([level] * 3 + [4]) - 7
        assert sum(own[level - 1] for own in fixed[:3]) == pytest.approx(alike)
        assert fixed[3][level - 1] == pytest.approx(3 * LOSSES[3][level - 1])


def test_a_step_is_shared_by_what_each_role_loses_alone_and_by_prediction_within_it() -> None:
    asked: list[list[int]] = []

    def measure(levels: list[int]) -> float:
        asked.append(levels)
        own = [losses[level - 1] for losses, level in zip(LOSSES, levels, strict=True)]
        return 10 * (own[0] + own[1]) + own[2]

    fixed = corrected(LOSSES, ROLES, INSIDE, measure)
    assert fixed[0] == pytest.approx([40.0, 20.0, 10.0, 0.0])
    assert fixed[1] == pytest.approx([40.0, 10.0, 5.0, 0.0])
    assert fixed[2] == pytest.approx([8.0, 3.0, 1.0, 0.0])
    assert fixed[3] == pytest.approx([0.0] * 4)
    alone = [[3, 3, 4, 4], [4, 4, 3, 4], [3, 3, 3, 4], [2, 2, 3, 4], [3, 3, 2, 4], [2, 2, 2, 4]]
    assert asked[:7] == [[4] * 4, *alone]


def test_above_the_measured_steps_prediction_is_scaled() -> None:
    fixed = corrected(LOSSES, ROLES, INSIDE, tuned_together, probed=1)
    for level in range(1, 5):
        alike = tuned_together([level] * 3 + [4]) - 7
        assert sum(own[level - 1] for own in fixed[:3]) == pytest.approx(alike)


@pytest.mark.parametrize("inside", [[True, True], [False, False], [True, False]])
def test_what_does_not_get_worse_costs_nothing(inside: list[bool]) -> None:
    """Noise may say that a lower level is better; stacks may have other tops, or one level."""
    losses = [[4.0, 2.0, 0.0], [3.0]]
    fixed = corrected(losses, ["a", "b"], inside, lambda levels: -float(3 - levels[0]))
    assert fixed == [[0.0, 0.0, 0.0], [0.0]]
    order = predicted_order([[10, 20, 30], [10]], fixed)
    assert order == [0, 0]


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
