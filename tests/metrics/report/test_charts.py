"""Marks stand where their values are; intervals end at the edge of their chart at the latest."""

import pytest

from bitstack.metrics.report.axis import BytesAxis
from bitstack.metrics.report.charts import Chart, Figure, make_chart
from bitstack.metrics.statistics.bootstrap import Interval

AXIS = BytesAxis.over([2**20, 2**24])
FIGURES: list[Figure] = [
    ("floor", 2**20, 3.0, Interval(2.9, 3.2)),
    ("2bpw", 2**21, 2.5, None),
    ("3bpw", 2**22, None, None),
    ("everything", 2**23, 2.0, Interval(-50.0, 60.0)),
]
ORIGINAL: Figure = ("original", 2**24, 1.9, None)


def chart(figures: list[Figure] = FIGURES, original: Figure | None = ORIGINAL) -> Chart:
    made = make_chart("loss", "Loss", "bits per byte", figures, original, AXIS, digits=2)
    assert made is not None
    return made


def test_marks_are_the_figures_that_are_defined() -> None:
    one = chart()
    assert [mark.name for mark in one.marks] == ["floor", "2bpw", "everything"]
    assert [mark.minor for mark in one.marks] == [False, True, False]
    assert [mark.name for mark in one.all][-1] == "original"
    for mark in one.all:
        assert mark.x == AXIS.place(mark.bytes)
        assert mark.y == one.y.place(mark.value)
    assert one.path.startswith(f"M{one.marks[0].x:.3f} {100 - one.marks[0].y:.3f} L")
    assert one.path.count("L") == len(one.marks) - 1


def test_an_interval_ends_at_the_edge_at_the_latest() -> None:
    first, second, last = chart().marks
    assert (second.low, second.high) == (None, None)
    assert first.low is not None
    assert first.high is not None
    assert 0 < first.low < first.y < first.high < 100
    assert (last.low, last.high) == (0, 100)
    assert chart().y.low > -10, "a wide interval leaves the values readable"


def test_the_words_of_a_chart() -> None:
    one = chart()
    assert one.summary.startswith("Loss, bits per byte: 3.00 at floor, 2.00 at everything; ")
    assert "the original 1.90" in one.summary
    assert one.cell("floor") == "3.00 (2.90 to 3.20)"
    assert one.cell("original") == "1.90"
    assert one.cell("3bpw") == "–"
    assert [mark.side for mark in one.all] == ["right", "over", "left", "left"]


def test_the_script_gets_the_line_without_the_original() -> None:
    data = chart().data()
    assert data["points"] == [[2**20, 3.0], [2**21, 2.5], [2**23, 2.0]]
    assert (data["low"], data["high"], data["digits"]) == (chart().y.low, chart().y.high, 2)


def test_one_value_is_a_chart_and_none_is_not() -> None:
    alone = chart(FIGURES[:1], None)
    assert alone.summary.startswith("Loss, bits per byte: 3.00 at floor. ")
    assert alone.original is None
    assert make_chart("loss", "Loss", "", FIGURES[2:3], ORIGINAL, AXIS) is None


@pytest.mark.parametrize("original", [None, ("original", 2**24, None, None)])
def test_without_an_original(original: Figure | None) -> None:
    assert chart(original=original).original is None
