"""The charts of a report: which figures, in which unit, where on the page. Drawing is the page's.

All charts share one axis of bytes, so that one marker stands at the same place in each.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bitstack.metrics.report.axis import BytesAxis, LinearAxis
from bitstack.metrics.report.data import Report
from bitstack.metrics.statistics.bootstrap import Interval


@dataclass(frozen=True)
class Mark:
    """One measured model: places in percent, and words for a person."""

    name: str
    bytes: int
    value: float
    x: float
    y: float
    low: float | None  # of the interval, None without one
    high: float | None
    interval: Interval | None
    minor: bool  # its name is left out where there is little room

    @property
    def side(self) -> str:
        """To which side its words have room."""
        return "right" if self.x < 30 else "left" if self.x > 70 else "over"


@dataclass(frozen=True)
class Chart:
    """Marks of a container in order of bytes, and the original beside them."""

    key: str
    title: str
    unit: str
    better: str  # lower or higher
    digits: int
    x: BytesAxis
    y: LinearAxis
    marks: list[Mark]
    original: Mark | None

    @property
    def all(self) -> list[Mark]:
        """The original last, so that it is drawn over the others."""
        return [*self.marks, *filter(None, [self.original])]

    @property
    def path(self) -> str:
        """The line through all marks, for a drawing of 100 × 100 with y downwards."""
        return "M" + " L".join(f"{m.x:.3f} {100 - m.y:.3f}" for m in self.marks)

    @property
    def summary(self) -> str:
        """The chart in one sentence, for those who do not see it."""
        first, last = self.marks[0], self.marks[-1]
        words = f"{self.title}, {self.unit}: {self.say(first.value)} at {first.name}"
        if last is not first:
            words += f", {self.say(last.value)} at {last.name}"
        if self.original:
            words += f"; the original {self.say(self.original.value)}"
        return words + ". All values are in the table of measurements."

    def say(self, value: float) -> str:
        """The value with as many digits as it deserves."""
        return f"{value:.{self.digits}f}"

    def cell(self, name: str) -> str:
        """The value of the model `name` with its interval, for a table."""
        mark = next((mark for mark in self.all if mark.name == name), None)
        if mark is None:
            return "–"
        ends = mark.interval
        within = f" ({self.say(ends.low)} to {self.say(ends.high)})" if ends else ""
        return self.say(mark.value) + within

    def data(self) -> dict[str, Any]:
        """What the page's script needs to follow the line."""
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
    """A chart of what is defined among `figures`; None where nothing is."""
    known = [one for one in figures if one[2] is not None]
    if not known:
        return None
    whole = original if original and original[2] is not None else None
    y = LinearAxis.over(_span([*known, *filter(None, [whole])]), most=ticks, room=room)
    marks = [_mark(one, axis, y, minor=0 < i < len(known) - 1) for i, one in enumerate(known)]
    first = _mark(whole, axis, y, minor=False) if whole else None
    return Chart(key, title, unit, better, digits, axis, y, marks, first)


def _span(figures: list[Figure]) -> list[float]:
    """All values, and the ends of their intervals as far as they leave the values readable."""
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
    """Where an interval ends, or the chart does."""
    return None if end is None else min(max(y.place(end), 0), 100)


def bytes_axis(report: Report) -> BytesAxis:
    """From the floor to the original or to everything, whichever is larger."""
    return BytesAxis.over([report.sizes[0], report.sizes[-1], report.manifest.original_bytes])


def loss_chart(report: Report, axis: BytesAxis) -> Chart | None:
    """Bits per byte over bytes in memory."""
    rows = [
        (row.name, row.plan.resident_bytes, row.scored.bits_per_byte, None)
        for row in report.measured
        if row.scored
    ]
    first = report.original and report.original.scored
    original = first and ("original", report.manifest.original_bytes, first.bits_per_byte, None)
    return make_chart("loss", "Loss", "bits per byte", rows, original, axis, digits=4, room=0.06)
