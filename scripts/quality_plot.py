"""Draws the rows of `bench_quality.py`: distance from the original over size.

The distance is the increase in loss in the upper row, and the KL in the lower row.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from peers import family
from peers.bench import Row, Task
from quality_curves import LEAST, Curves

from bitstack.machine.extras import require

SIZES = {"whole": "resident bytes, whole model", "linear": "bits of a linear weight"}
DISTANCES = {
    "increase": "loss above the original,\nnats per token",
    "kl": "KL from the original,\nnats per token",
}
OWN, PUBLISHED = "bitstack", "paper"
MARKS = "osD^vPX*<>"


def plot(task: Task, rows: Sequence[Row], file: Path) -> None:
    """Writes the picture: one column for each view, one row for each distance.

    Increases below LEAST are drawn at LEAST.
    """
    require("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = Curves(rows)
    figure, axes = pyplot.subplots(
        2, 2, figsize=(15, 11), layout="constrained", sharex="col", sharey="row"
    )
    styles = _styles(curves)
    for column, view in enumerate(SIZES):
        for axis, distance in zip(axes[:, column], DISTANCES, strict=True):
            for method in curves.methods(view):
                _draw(axis, _points(curves, method, view, distance), method, styles[method])
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
        axes[-1, column].set_xlabel(SIZES[view])
    for axis, label in zip(axes[:, 0], DISTANCES.values(), strict=True):
        axis.set_ylabel(label)
    handles = {h.get_label(): h for axis in axes.flat for h in axis.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)
    figure.suptitle(f"{task.model}: {task.tokens} tokens, window and stride {task.window}")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _points(curves: Curves, method: str, view: str, distance: str) -> list[tuple[float, float]]:
    if distance == "kl":
        return sorted(curves.divergences(method, view))
    return sorted((size, max(value, LEAST)) for size, value in curves.points(method, view))


def _draw(axis: Any, points: list[tuple[float, float]], label: str, style: dict[str, Any]) -> None:
    if points:
        axis.plot(*zip(*points, strict=True), label=label, **style)


def _styles(curves: Curves) -> dict[str, dict[str, Any]]:
    """Returns a colour for every tool and a mark for each of its methods; ours lies in front."""
    families: dict[str, list[str]] = defaultdict(list)
    for method in dict.fromkeys([*curves.methods("whole"), *curves.methods("linear")]):
        families[family(method)].append(method)
    styles = {}
    for colour, (name, methods) in enumerate(families.items()):
        for mark, method in zip(cycle(MARKS), methods, strict=False):
            own = name == OWN
            styles[method] = {
                "color": f"C{colour}", "marker": mark, "alpha": 0.8, "zorder": 3 if own else 2,
                "linewidth": 2 if own else 0.8, "markersize": 4 if own else 5,
                "linestyle": "-" if name in (OWN, PUBLISHED) else ":",
            }  # fmt: skip
    return styles
