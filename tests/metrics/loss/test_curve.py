"""Plots of quality over memory: files, points in order, and an original that may be missing."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bitstack.metrics.loss.curve import CurvePoint, plot_memory_quality

POINTS = [CurvePoint(2**20 * i, 3 / i, f"at {i}") for i in (1, 2, 3)]


def drawn(folder: Path, points: list[CurvePoint], original: CurvePoint | None) -> str:
    """The SVG of one curve."""
    folder.mkdir()
    (file,) = plot_memory_quality(
        {"one folder": points}, original, folder, title="Title", caption="on a text",
        name="curve", formats=["svg"],
    )  # fmt: skip
    assert file == folder / "curve.svg"
    return file.read_text()


def test_points_are_drawn_in_order_of_bytes(tmp_path: Path) -> None:
    shuffled = [POINTS[1], POINTS[2], POINTS[0]]
    image = drawn(tmp_path / "shuffled", shuffled, None)
    ElementTree.fromstring(image)
    assert image == drawn(tmp_path / "sorted", POINTS, None)


def test_labels_and_the_original_are_shown(tmp_path: Path) -> None:
    original = CurvePoint(2**23, 0.9, "dense")
    image = drawn(tmp_path / "with", POINTS, original)
    for text in ("one folder", "at 1", "at 3", "dense", "Title", "on a text"):
        assert f"<!-- {text} -->" in image
    assert "<!-- original -->" in drawn(tmp_path / "unnamed", POINTS, CurvePoint(2**23, 0.9))
    alone = drawn(tmp_path / "without", POINTS, None)
    assert "dense" not in alone
    assert "original" not in alone


@pytest.mark.parametrize("formats", [["svg"], ["png", "svg"]])
def test_the_same_points_give_the_same_files(tmp_path: Path, formats: list[str]) -> None:
    both = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        paths = plot_memory_quality(
            {"a": POINTS}, None, tmp_path / name, title="T", caption="c", formats=formats
        )
        assert [path.name for path in paths] == [f"memory-quality.{kind}" for kind in formats]
        both.append([path.read_bytes() for path in paths])
    assert both[0] == both[1]
