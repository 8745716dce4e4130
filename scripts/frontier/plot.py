"""Draws the rows of `bench_frontier.py`: KL over the minutes to quantise, a panel for each size.

Sizes are bits of the whole model for each of its weights, so that a model's embedding counts. Of a
peer the best row near a panel's size is drawn; ours are taken at that size. Does not measure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quality_equal
from peers import family
from peers.bench import Row, Task
from quality_curves import Curves

from bitstack.machine.extras import require
from frontier.ours import RUNS

# Those of peers at 2, 3 and 4 bits with the embedding in 8 bits, and of Q4_K_M, for SmolLM2.
PANELS = (3.6, 4.4, 5.2, 6.2)
NEAR = 0.16  # bits, on both sides of a panel's size
LOOKS = {
    "bitstack": ("bitstack", "#c1121f"),
    "llama.cpp": ("llama.cpp", "#1d4ed8"),
    "llama.cpp-mix": ("llama.cpp mix of types", "#0b7a85"),
    "hqq": ("HQQ", "#6b6b6b"),
    "gptq": ("GPTQ", "#2e8b57"),
    "matgptq": ("MatGPTQ", "#8a5a00"),
    "auto-round-light": ("AutoRound light", "#a06cd5"),
    "auto-round": ("AutoRound", "#5b2a86"),
}  # name and colour
_TEXT = 8.5  # points
_APART = 0.062  # of a panel's height, between labels
_MARK = 0.045  # the same between a label and a mark


@dataclass(frozen=True)
class Point:
    """One mark of a panel."""

    label: str
    family: str
    minutes: float
    kl: float


def plot(task: Task, rows: Sequence[Row], file: Path) -> bool:
    """Writes the picture as PNG; returns whether there was anything to draw.

    Raises:
        UserError: matplotlib is not installed.
    """
    panels = panels_of(rows)
    if not panels:
        return False
    require("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.5 * columns, 3.2 * lines), layout="constrained", sharex=True,
        squeeze=False,
    )  # fmt: skip
    weights = next(r.resident_bytes for r in rows if r.method == "original") / 2
    limits = _minutes(panels)
    for axis, (bits, points) in zip(axes.flat, panels.items(), strict=False):
        axis.set_xlim(*limits)
        _draw(axis, points)
        axis.set_title(f"{bits:g} bits a weight, {bits * weights / 8e6:.0f} MB", fontsize=10)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("minutes to quantise", fontsize=10)
    figure.supylabel("KL from the original, nats per token", fontsize=10)
    figure.suptitle(f"{task.model}: lower and further left is better", fontsize=11)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
    return True


def panels_of(rows: Sequence[Row]) -> dict[float, list[Point]]:
    """Returns the points of every panel that has a point of a peer and one of ours."""
    if not any(row.method == "original" for row in rows):
        return {}
    curves, found = Curves(rows), {}
    for bits in PANELS:
        theirs, own = _peers(curves, bits), _ours(curves, bits)
        if theirs and own:
            found[bits] = [*theirs, *own]
    return found


def _peers(curves: Curves, bits: float) -> list[Point]:
    """Returns the best point of every peer near a size."""
    best: dict[str, Point] = {}
    for row in curves.rows:
        name, size = family(row.method), 16 * row.resident_bytes / curves.original.resident_bytes
        if name == "bitstack" or not row.kl_per_token or abs(size - bits) > NEAR:
            continue
        if name not in best or row.kl_per_token < best[name].kl:
            setting = "" if row.setting.endswith("bytes") else f" {row.setting}"
            label = LOOKS[name][0] + setting
            best[name] = Point(label, name, row.seconds / 60, row.kl_per_token)
    return list(best.values())


def _ours(curves: Curves, bits: float) -> list[Point]:
    points = []
    for run in RUNS:
        rows = curves.of(run.method, "whole")
        found = quality_equal.at(
            curves, run.method, bits / 16 * curves.original.resident_bytes, "whole"
        )
        if found:
            points.append(
                Point(
                    f"bitstack {run.time or run.recipe}", "bitstack", rows[0].seconds / 60, found[0]
                )
            )
    return points


def _minutes(panels: dict[float, list[Point]]) -> tuple[float, float]:
    """Returns the limits of the axis of minutes, with room for labels on both sides."""
    every = [point for points in panels.values() for point in points]
    own = min(point.minutes for point in every if point.family == "bitstack")
    least = min(point.minutes for point in every)
    return min(least / 1.6, own / 40), max(point.minutes for point in every) * 20


def _draw(axis: Any, points: Sequence[Point]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.set_yscale("log")
    kls = [point.kl for point in points]
    # Below our lowest point lie our names: a fifth of the height.
    low, high = min(kls) / max(1.8, (max(kls) / min(kls)) ** 0.2), max(kls) * 1.8
    axis.set_ylim(low, high)
    for point in points:
        own = point.family == "bitstack"
        axis.plot(point.minutes, point.kl, "o" if own else "s", color=LOOKS[point.family][1],
                  markersize=7 if own else 5, zorder=5)  # fmt: skip
    own = sorted((p.minutes, p.kl) for p in points if p.family == "bitstack")
    axis.plot(*zip(*own, strict=True), color=LOOKS["bitstack"][1], linewidth=1.2, zorder=1)
    for ours in (True, False):
        some = [point for point in points if (point.family == "bitstack") == ours]
        marks = [_beside(point, points, left=ours) for point in some]
        for point, place in zip(some, places(some, low, high, marks, up=not ours), strict=True):
            _label(axis, point, place)
    steps = (1, 2, 5) if high / low < 50 else (1,)
    axis.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_formatter("{x:g}")
        ticks.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25, which="major")
    axis.tick_params(labelsize=8)


def _label(axis: Any, point: Point, place: float) -> None:
    """Writes a point's name beside it at the height `place`: ours on the left, peers right."""
    from matplotlib.patheffects import withStroke

    own, colour = point.family == "bitstack", LOOKS[point.family][1]
    beside = point.minutes / 1.3 if own else point.minutes * 1.25
    axis.annotate(
        point.label, (point.minutes, point.kl), (beside, place), va="center",
        ha="right" if own else "left", fontsize=_TEXT, color=colour, zorder=4,
        arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": colour},
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )  # fmt: skip


def _beside(point: Point, points: Sequence[Point], *, left: bool) -> list[float]:
    """Returns the KL of the other points on the side where a point's label stands."""
    sign = -1 if left else 1
    return [p.kl for p in points if p is not point and sign * (p.minutes - point.minutes) >= 0]


def places(
    points: Sequence[Point], low: float, high: float, marks: Sequence[Sequence[float]] = (), *,
    up: bool = True,
) -> list[float]:  # fmt: skip
    """Returns the height of each label: that of its point, moved where it would meet another.

    Labels move up, and with `up` false down, until they meet no label and none of the `marks`
    beside them.
    """
    sign, tall = 1 if up else -1, math.log(high / low)

    def height(kl: float) -> float:
        return sign * math.log(kl / low) / tall

    placed, last = [0.0] * len(points), -math.inf
    for i in sorted(range(len(points)), key=lambda i: height(points[i].kl)):
        last = max(height(points[i].kl), last + _APART)
        for mark in sorted(map(height, marks[i] if marks else ())):
            last = mark + _MARK if abs(mark - last) < _MARK else last
        placed[i] = last
    return [low * math.exp(sign * place * tall) for place in placed]
