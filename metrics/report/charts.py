"""Makes the charts of a report: which figures, in which unit, at which place.

All charts share one axis of bytes, so that one marker stands at the same place in each. Does not
draw them; see `page.html.j2`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bitstack.metrics.report.axis import BytesAxis, LinearAxis
from bitstack.metrics.report.data import Report
from bitstack.metrics.statistics.bootstrap import Interval


@dataclass(frozen=True)
class Mark:
    """The dot of one measured model."""

    name: str  # of the budget, or "original"
    bytes: int
    value: float
    x: float  # percent from the left
    y: float  # percent from the bottom
    low: float | None  # ends of the interval, percent from the bottom; None without one
    high: float | None
    interval: Interval | None
    minor: bool  # its name is left out on a narrow screen

    @property
    def side(self) -> str:
        """Side of the dot on which its tip has room."""
        return "right" if self.x < 30 else "left" if self.x > 70 else "over"


@dataclass(frozen=True)
class Chart:
    """One figure of a container at every budget, and of the original."""

    key: str  # names the chart in the page's script
    title: str
    unit: str
    better: str  # lower or higher
    digits: int  # decimals of the values
    x: BytesAxis
    y: LinearAxis
    marks: list[Mark]
    original: Mark | None

    @property
    def all(self) -> list[Mark]:
        """All marks, the original last, so that it is drawn over the others."""
        return [*self.marks, *filter(None, [self.original])]

    @property
    def path(self) -> str:
        """The line through the marks, for a drawing of 100 × 100 with y downwards."""
        return "M" + " L".join(f"{m.x:.3f} {100 - m.y:.3f}" for m in self.marks)

    @property
    def summary(self) -> str:
        """The chart in one sentence, for screen readers."""
        first, last = self.marks[0], self.marks[-1]
        words = f"{self.title}, {self.unit}: {self.format(first.value)} at {first.name}"
        if last is not first:
            words += f", {self.format(last.value)} at {last.name}"
        if self.original:
            words += f"; the original {self.format(self.original.value)}"
        return words + ". All values are in the tables of this page."

    def format(self, value: float) -> str:
        """Returns the value with the chart's decimals."""
        return f"{value:.{self.digits}f}"

    def cell(self, name: str) -> str:
        """Returns the value of the budget `name` with its interval, for a table."""
        mark = next((mark for mark in self.all if mark.name == name), None)
        if mark is None:
            return "–"
        ends = mark.interval
        within = f" ({self.format(ends.low)} to {self.format(ends.high)})" if ends else ""
        return self.format(mark.value) + within

    def data(self) -> dict[str, Any]:
        """Returns what the page's script needs to move the marker along the line."""
        return {
            "points": [[mark.bytes, mark.value] for mark in self.marks],
            "low": self.y.low,
            "high": self.y.high,
            "digits": self.digits,
        }


Figure = tuple[str, int, float | None, Interval | None]  # name, bytes, value, interval


def make_chart(
    key: str,
    title: str,
    unit: str,
    figures: Iterable[Figure],
    original: Figure | None,
    axis: BytesAxis,
    *,
    digits: int = 3,
    better: str = "lower",
    ticks: int = 6,
    room: float = 0,
) -> Chart | None:
    """Returns a chart of the figures that are defined; None where none is.

    Args:
        figures: Of the container at every budget, in order of bytes.
        original: Figure of the original; None where it was not measured.
        digits: Decimals of the values.
        better: "lower" or "higher".
        ticks: About how many lines the grid has over the values.
        room: Share of the values' range that stays free below the lowest.
    """
    known = [one for one in figures if one[2] is not None]
    if not known:
        return None
    beside = original if original and original[2] is not None else None
    y = LinearAxis.over(_span([*known, *filter(None, [beside])]), most=ticks, room=room)
    marks = [_mark(one, axis, y, minor=0 < i < len(known) - 1) for i, one in enumerate(known)]
    square = _mark(beside, axis, y, minor=False) if beside else None
    return Chart(key, title, unit, better, digits, axis, y, marks, square)


def _span(figures: list[Figure]) -> list[float]:
    """Returns all values, and the ends of their intervals.

    Ends farther than the values' own range are cut, so that the values stay readable.
    """
    values = [one[2] for one in figures if one[2] is not None]
    ends = [end for one in figures if one[3] for end in (one[3].low, one[3].high)]
    room = max(values) - min(values) or abs(values[0])
    low, high = min(values) - room, max(values) + room
    return [*values, *(min(max(end, low), high) for end in ends)]


def _mark(figure: Figure, x: BytesAxis, y: LinearAxis, *, minor: bool) -> Mark:
    name, size, value, interval = figure
    assert value is not None
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Mark(
        name, size, value, x.place(size), y.place(value), _inside(low, y), _inside(high, y),
        interval, minor,
    )  # fmt: skip


def _inside(end: float | None, y: LinearAxis) -> float | None:
    """Returns the place of an interval's end, or of the chart's edge before it."""
    return None if end is None else min(max(y.place(end), 0), 100)


def bytes_axis(report: Report) -> BytesAxis:
    """Returns the axis from the floor to the original or to everything, whichever is larger."""
    return BytesAxis.over([report.sizes[0], report.sizes[-1], report.manifest.original_bytes])


def loss_chart(report: Report, axis: BytesAxis) -> Chart | None:
    """Returns the chart of bits per byte over bytes in memory; None where no loss was measured."""
    rows = [
        (row.name, row.plan.resident_bytes, row.scored.bits_per_byte, None)
        for row in report.measured
        if row.scored
    ]
    scored = report.original and report.original.scored
    original = scored and ("original", report.manifest.original_bytes, scored.bits_per_byte, None)
    return make_chart("loss", "Loss", "bits per byte", rows, original, axis, digits=4, room=0.06)
