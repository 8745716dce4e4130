"""Which block buys the most loss per byte: one list over all stacks.

Two ways: predicted loss (curvature from the calibration, corrected by a few measurements as far as
that brings the whole model nearer), cut to the lower convex hull of every stack; or the published
sort by measured perplexity. How a loss is measured is the caller's: `measure(levels)` gives nats
per token.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from tqdm import tqdm

Measure = Callable[[list[int]], float]
PROBED = 3  # levels of every role that are measured; above, the loss is as good as quadratic
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of what was measured, in the orders that are tried
TRIED = 16  # sizes at which each of them is tried: what one buys depends on the steps near it
_TRUST = 30.0  # a correction is at most this factor
_LEAST = 1e-12  # nats: as good as nothing


def predicted_order(sizes: Sequence[Sequence[int]], losses: Sequence[Sequence[float]]) -> list[int]:
    """Stack indices, steepest loss per byte first.

    `sizes` and `losses` are bytes and predicted loss of every stack at level 1, 2, …. A level
    above its stack's lower convex hull is never a place to stop: its block shares the slope of
    the step to the next level on the hull.
    """
    heap: list[tuple[float, int, int]] = []
    slopes = [_hull_slopes(s, e) for s, e in zip(sizes, losses, strict=True)]
    for index, own in enumerate(slopes):
        if own:
            heap.append((-own[0], index, 0))
    heapq.heapify(heap)
    order = []
    while heap:
        _, index, step = heapq.heappop(heap)
        order.append(index)
        if step + 1 < len(slopes[index]):
            heapq.heappush(heap, (-slopes[index][step + 1], index, step + 1))
    return order


def by_role(
    losses: list[list[float]],
    roles: list[str],
    measure: Measure,
    *,
    show: bool = False,
) -> list[list[float]]:
    """`losses` with each role (the same matrix of all layers) scaled to what was measured.

    One measurement for every role and each of the first levels, all other stacks at their top: the
    second order says little of errors as large as level 1 makes. Within a role the layers keep the
    shares they were predicted.
    """
    tops = [len(own) for own in losses]
    base = measure(tops)
    result = [list(own) for own in losses]
    levels = range(1, PROBED + 1)
    with tqdm(total=len(levels) * len(set(roles)), desc="order", disable=not show or None) as bar:
        for role in sorted(set(roles)):
            members = [i for i, r in enumerate(roles) if r == role]
            factor = 1.0
            for level in reversed(levels):
                raised = [min(level, t) if i in members else t for i, t in enumerate(tops)]
                rise = measure(raised) - base
                predicted = sum(losses[i][raised[i] - 1] - losses[i][-1] for i in members)
                if rise > 0 and predicted > 0:
                    factor = min(max(rise / predicted, 1 / _TRUST), _TRUST)
                for i in members:
                    # The highest measured level speaks for those above it.
                    above = slice(level - 1, None if level == levels[-1] else level)
                    result[i][above] = [loss * factor for loss in losses[i][above]]
                bar.update()
    return result


def between(
    sizes: Sequence[Sequence[int]],
    predicted: Sequence[Sequence[float]],
    measured: Sequence[Sequence[float]],
) -> list[list[int]]:
    """Orders by the geometric means of predicted and measured losses, from the one to the other;
    each of them once."""
    found = []
    for share in SHARES:
        losses = [
            [_mean(a, b, share) for a, b in zip(*pair, strict=True)]
            for pair in zip(predicted, measured, strict=True)
        ]
        found.append(predicted_order(sizes, losses))
    return [order for i, order in enumerate(found) if order not in found[:i]]


def _mean(a: float, b: float, share: float) -> float:
    return max(a, _LEAST) ** (1 - share) * max(b, _LEAST) ** share


def nearest(paths: Sequence[list[list[int]]], measure: Measure, *, show: bool = False) -> int:
    """The index of the path whose losses have the least geometric mean; of equal ones the first.

    A path is a list of the levels of all stacks at some sizes, the same for every path.
    """
    if len(paths) == 1:
        return 0
    known: dict[tuple[int, ...], float] = {}
    asked = {tuple(levels) for path in paths for levels in path}
    for levels in tqdm(sorted(asked), desc="orders", disable=not show or None):
        known[levels] = math.log(max(measure(list(levels)), _LEAST))
    means = [sum(known[tuple(levels)] for levels in path) for path in paths]
    return means.index(min(means))


def perplexity_order(tops: Sequence[int], measure: Measure, *, show: bool = False) -> list[int]:
    """The published sort (arXiv 2410.23918, "average"): bytes are ignored.

    For every level b: all stacks at b, one raised to b + 1, measured; ascending; levels
    concatenated. One measurement for every block above the first.
    """
    order: list[int] = []
    total = sum(top - 1 for top in tops)
    with tqdm(total=total, desc="order", disable=None if show else True) as bar:
        for level in range(1, max(tops)):
            found = []
            for index, top in enumerate(tops):
                if top > level:
                    levels = [min(level, t) for t in tops]
                    levels[index] += 1
                    found.append((measure(levels), index))
                    bar.update()
            order += [index for _, index in sorted(found)]
    return order


def _hull_slopes(sizes: Sequence[int], losses: Sequence[float]) -> list[float]:
    """Loss saved per byte by each block above the first, on the lower convex hull: falling."""
    best = [min(losses[: i + 1]) for i in range(len(losses))]
    hull = [0]
    for point in range(1, len(best)):
        while len(hull) > 1 and _slope(sizes, best, hull[-1], point) >= _slope(
            sizes, best, hull[-2], hull[-1]
        ):
            hull.pop()
        hull.append(point)
    slopes: list[float] = []
    for a, b in pairwise(hull):
        slopes += [_slope(sizes, best, a, b)] * (b - a)
    return slopes


def _slope(sizes: Sequence[int], losses: Sequence[float], a: int, b: int) -> float:
    return (losses[a] - losses[b]) / (sizes[b] - sizes[a])
