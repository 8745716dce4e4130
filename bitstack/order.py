"""Which block buys the most loss per byte: one list over all stacks.

Two ways: predicted loss (curvature from the calibration, corrected by a few measurements), cut to
the lower convex hull of every stack; or the published sort by measured perplexity. How a loss is
measured is the caller's: `measure(levels)` gives nats per token.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tqdm import tqdm

Measure = Callable[[list[int]], float]
PROBED = 3  # levels of every role that are measured; above, the loss is as good as quadratic


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


def corrected(
    losses: Sequence[Sequence[float]],
    roles: Sequence[str],
    inside: Sequence[bool],
    measure: Measure,
    *,
    probed: int = PROBED,
    show: bool = False,
) -> list[list[float]]:
    """Losses of every stack at level 1, 2, …, above its top, by measurements of the first `probed`
    steps of every role (the same matrix of all layers) and by the predicted `losses`.

    Stacks `inside` the layers are tuned for one another's errors: one alone at a low level seems
    far worse than it is among its like. So what is lost from one level of all of them to the next
    is shared among their roles, by what lowering each alone loses there. Embedding and head are
    measured with all others at their top. Within a role, and above the measured steps, the
    predicted shares count.
    """
    steps = _Steps(losses, [[0.0] * len(own) for own in losses])
    tops, last = steps.tops, min(probed, max(map(len, losses)) - 1)
    groups = {role: [i for i, r in enumerate(roles) if r == role] for role in sorted(set(roles))}
    layers = [i for i, within in enumerate(inside) if within]
    with tqdm(total=last * len(groups), desc="order", disable=None if show else True) as bar:
        top = measure(tops)
        context = steps.lowered(tops, layers, last + 1)
        upper = steps.above(layers, last, top, context, measure)
        within = {role: own for role, own in groups.items() if own[0] in layers}
        for level in range(last, 0, -1) if within else ():
            rises = {}
            for role, own in within.items():
                rises[role] = max(measure(steps.lowered(context, own, level)) - upper, 1e-12)
                bar.update()
            context = steps.lowered(tops, layers, level)
            lower = measure(context)
            for role, own in within.items():
                steps.split(max(lower - upper, 0) * rises[role] / sum(rises.values()), own, level)
            upper = lower
        for own in (own for role, own in groups.items() if role not in within):
            upper = steps.above(own, last, top, steps.lowered(tops, own, last + 1), measure)
            for level in range(last, 0, -1):
                lower = measure(steps.lowered(tops, own, level))
                steps.split(max(lower - upper, 0), own, level)
                upper = lower
                bar.update()
    return [[sum(own[j:]) for j in range(len(own))] for own in steps.found]


@dataclass(frozen=True)
class _Steps:
    """What each stack loses from level j + 1 to j: `found` at index j - 1, zero at its top."""

    losses: Sequence[Sequence[float]]  # predicted, of every level
    found: list[list[float]]

    @property
    def tops(self) -> list[int]:
        return [len(own) for own in self.losses]

    def lowered(self, levels: Sequence[int], members: Sequence[int], level: int) -> list[int]:
        """`levels`, with `members` at `level` or at their own top."""
        changed = list(levels)
        for i in members:
            changed[i] = min(level, self.tops[i])
        return changed

    def split(self, step: float, members: Sequence[int], level: int) -> None:
        """Share what `members` lose together from `level` + 1 to `level`."""
        able = [i for i in members if level < self.tops[i]]
        parts = [max(self.losses[i][level - 1] - self.losses[i][level], 1e-30) for i in able]
        for i, part in zip(able, parts, strict=True):
            self.found[i][level - 1] += step * part / sum(parts)

    def above(
        self, members: Sequence[int], last: int, top: float, levels: list[int], measure: Measure
    ) -> float:
        """The loss at `levels`, where `members` stand at `last` + 1; shared among the steps above
        that as they are predicted."""
        if levels == self.tops:
            return top
        loss = measure(levels)
        predicted = sum(self.losses[i][levels[i] - 1] - self.losses[i][-1] for i in members)
        factor = max(loss - top, 0) / max(predicted, 1e-30)
        for i in members:
            for j in range(last, self.tops[i] - 1):
                self.found[i][j] = factor * max(self.losses[i][j] - self.losses[i][j + 1], 0)
        return loss


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
