"""Draws quality over memory: bits per byte of a model at every budget over its resident bytes.

Does not measure the points; see `metrics.loss.evaluation`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bitstack.machine.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIB = 2**20


@dataclass(frozen=True)
class CurvePoint:
    """One measured model."""

    resident_bytes: int  # of the whole model
    bits_per_byte: float
    label: str = ""  # written beside the point


def plot_memory_quality(
    curves: Mapping[str, Sequence[CurvePoint]],
    original: CurvePoint | None,
    folder: Path,
    *,
    title: str,
    caption: str,
    name: str = "memory-quality",
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Writes one plot, a line for each curve, into `folder`.

    Args:
        curves: Points by the name of the curve, for example one container at several budgets.
        original: The uncompressed model, drawn as a square and a dashed line; None for none.
        folder: An existing folder.
        title: Stands above the plot.
        caption: Stands below it and says how the points were measured.
        name: Name of the files, without extension.
        formats: Extensions that matplotlib can write.

    Returns:
        Paths of the files, in the order of `formats`.

    Raises:
        UserError: matplotlib is not installed.
    """
    require("matplotlib")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for label, points in curves.items():
        _draw(axes, label, sorted(points, key=lambda point: point.resident_bytes))
    if original:
        _draw_original(axes, original)
    axes.set_title(title, loc="left", fontsize=11, pad=12)
    axes.set_xlabel("resident memory of the whole model (MiB)")
    axes.set_ylabel("bits per byte on held-out text (lower is better)")
    drawn = [point for points in curves.values() for point in points]
    drawn += [original] if original else []
    axes.set_xlim(left=0, right=1.08 * max(point.resident_bytes for point in drawn) / MIB)
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.supxlabel(caption, fontsize=7.5, color="0.35")
    # Fixed ids and no date: the same points give the same file.
    paths = [folder / f"{name}.{kind}" for kind in formats]
    with matplotlib.rc_context({"svg.hashsalt": name}):
        for path in paths:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _draw(axes: "Axes", label: str, points: Sequence[CurvePoint]) -> None:
    x = [point.resident_bytes / MIB for point in points]
    y = [point.bits_per_byte for point in points]
    axes.plot(x, y, marker="o", markersize=5, linewidth=1.6, label=label)
    for point, left, bottom in zip(points, x, y, strict=True):
        if point.label:
            axes.annotate(
                point.label, (left, bottom), xytext=(7, 6), textcoords="offset points", fontsize=8.5
            )


def _draw_original(axes: "Axes", original: CurvePoint) -> None:
    axes.axhline(original.bits_per_byte, color="0.45", linewidth=0.9, linestyle="--", zorder=1)
    axes.plot(
        original.resident_bytes / MIB, original.bits_per_byte, marker="s", markersize=6,
        color="0.25", linestyle="none", label=original.label or "original",
    )  # fmt: skip
