"""Makes the order: one list over all stacks, the block that saves the most loss per byte first.

There are two ways. One sorts by predicted loss: curvature times squared error, corrected by a few
measurements as far as that brings the whole model nearer to the original, and cut to the lower
convex hull of every stack. The other is the published sort by measured perplexity. Does not measure
losses; the caller's `measure(levels)` gives nats per token, see `ordering.layer_loss`.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from bitstack.machine.progress import bar

Measure = Callable[[list[int]], float]  # level of every stack -> nats per token
PROBED_LEVELS = 3  # levels of every role that are measured; above, the loss is as good as quadratic
MEASURED_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # weight of the measurement in the orders tried
TRIED_SIZES = 16  # model sizes at which each order is tried; one alone hangs on the steps near it
_MOST_CORRECTION = 30.0  # factor by which a measurement may change a prediction, either way
_LEAST_LOSS = 1e-12  # nats; counts as the original, and keeps logarithms finite


def predicted_order(sizes: Sequence[Sequence[int]], losses: Sequence[Sequence[float]]) -> list[int]:
    """Returns stack indices, one for every block above the first: steepest loss per byte first.

    A level above its stack's lower convex hull is never a place to stop: its block shares the slope
    of the step to the next level on the hull. Along a hull slopes fall, so a greedy choice is the
    best model of its size wherever a step ends on the hull.

    Args:
        sizes: bytes of every stack at level 1, 2, ….
        losses: predicted loss of every stack at these levels, nats per token.
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


def corrected_by_role(
    losses: list[list[float]],
    roles: list[str],
    measure: Measure,
    *,
    show: bool = False,
) -> list[list[float]]:
    """Returns `losses` with each role scaled to what was measured.

    A role is the same matrix of all layers. Every role is measured at each of the first levels,
    with all other stacks at their top: errors as large as level 1 makes are beyond the second-order
    prediction. Within a role the layers keep the shares they were predicted.
    """
    tops = [len(own) for own in losses]
    base = measure(tops)
    result = [list(own) for own in losses]
    levels = range(1, PROBED_LEVELS + 1)
    with bar(desc="order", show=show, total=len(levels) * len(set(roles))) as shown:
        for role in sorted(set(roles)):
            members = [i for i, r in enumerate(roles) if r == role]
            factor = 1.0
            for level in reversed(levels):
                lowered = [min(level, t) if i in members else t for i, t in enumerate(tops)]
                rise = measure(lowered) - base
                predicted = sum(losses[i][lowered[i] - 1] - losses[i][-1] for i in members)
                if rise > 0 and predicted > 0:
                    factor = min(max(rise / predicted, 1 / _MOST_CORRECTION), _MOST_CORRECTION)
                for i in members:
                    # The highest measured level speaks for those above it.
                    above = slice(level - 1, None if level == levels[-1] else level)
                    result[i][above] = [loss * factor for loss in losses[i][above]]
                shown.update()
    return result


def interpolated_orders(
    sizes: Sequence[Sequence[int]],
    predicted: Sequence[Sequence[float]],
    measured: Sequence[Sequence[float]],
) -> list[list[int]]:
    """Returns the distinct orders by geometric means of predicted and measured losses.

    They go from the prediction alone to the measurement alone, in the steps of `MEASURED_SHARES`.
    """
    orders: list[list[int]] = []
    for share in MEASURED_SHARES:
        losses = [
            [_geometric_mean(a, b, share) for a, b in zip(*pair, strict=True)]
            for pair in zip(predicted, measured, strict=True)
        ]
        order = predicted_order(sizes, losses)
        if order not in orders:
            orders.append(order)
    return orders


def _geometric_mean(a: float, b: float, share: float) -> float:
    return max(a, _LEAST_LOSS) ** (1 - share) * max(b, _LEAST_LOSS) ** share


def best_path(paths: Sequence[list[list[int]]], measure: Measure, *, show: bool = False) -> int:
    """Returns the index of the path whose losses have the least geometric mean; of equal ones the
    first.

    A geometric mean, because losses of small and large models differ by orders of magnitude.

    Args:
        paths: each a list of the levels of all stacks at some sizes, the same for every path.
    """
    if len(paths) == 1:
        return 0
    log_losses: dict[tuple[int, ...], float] = {}
    distinct = {tuple(levels) for path in paths for levels in path}
    for levels in bar(sorted(distinct), desc="orders", show=show):
        log_losses[levels] = math.log(max(measure(list(levels)), _LEAST_LOSS))
    means = [sum(log_losses[tuple(levels)] for levels in path) for path in paths]
    return means.index(min(means))


def perplexity_order(tops: Sequence[int], measure: Measure, *, show: bool = False) -> list[int]:
    """Returns the published sort (arXiv 2410.23918, "average"), which ignores bytes.

    For every level b: all stacks at b, one raised to b + 1, measured; ascending; levels
    concatenated. One measurement for every block above the first.

    Args:
        tops: the highest level of every stack.
    """
    order: list[int] = []
    total = sum(top - 1 for top in tops)
    with bar(desc="order", show=show, total=total) as shown:
        for level in range(1, max(tops)):
            losses = []
            for index, top in enumerate(tops):
                if top > level:
                    levels = [min(level, t) for t in tops]
                    levels[index] += 1
                    losses.append((measure(levels), index))
                    shown.update()
            order += [index for _, index in sorted(losses)]
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
    """Loss saved per byte from level index `a` to `b`."""
    return (losses[a] - losses[b]) / (sizes[b] - sizes[a])
