"""The rows as a picture: increase over the original by size, one panel a view."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from peers.bench import Bench, Row
from quality_report import LEAST, Curves


def plot(bench: Bench, rows: Sequence[Row], file: Path) -> None:
    """Increase over size, one panel a view."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = Curves(rows)
    figure, axes = pyplot.subplots(1, 2, figsize=(15, 7), layout="constrained")
    labels = {"whole": "resident bytes, whole model", "linear": "bits of a linear weight"}
    families = dict.fromkeys(_family(r.method) for r in curves.rows)
    colours = {name: f"C{index}" for index, name in enumerate(families)}
    marks = "osD^vPX*<>"
    for axis, (view, label) in zip(axes, labels.items(), strict=True):
        drawn: dict[str, int] = defaultdict(int)
        for method in curves.methods(view):
            sizes, increases = zip(*sorted(curves.points(method, view)), strict=True)
            family = _family(method)
            mark = marks[drawn[family] % len(marks)]
            drawn[family] += 1
            own = family == "bitstack"
            axis.plot(
                sizes, [max(i, LEAST) for i in increases], marker=mark, label=method, alpha=0.8,
                color=colours[family], linewidth=2 if own else 0.8, markersize=4 if own else 5,
                linestyle="-" if own or family == "paper" else ":",
            )  # fmt: skip
        axis.set(xlabel=label, ylabel="nats per token above the original", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=2)
    task = bench.task
    figure.suptitle(f"{task.model}: {task.tokens} tokens, window {task.window}")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _family(method: str) -> str:
    return method.split(" ")[0]
