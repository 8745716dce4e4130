"""Computes places on a chart, in percent, of values and of the lines of the grid.

Does not choose what is drawn; see `metrics.report.charts`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bitstack.machine.sizes import PREFIXES

MOST_TICKS = 6


@dataclass(frozen=True)
class Tick:
    """A line of the grid."""

    place: float  # percent from the left or from the bottom
    label: str


@dataclass(frozen=True)
class BytesAxis:
    """Bytes on a logarithmic scale: equal steps are equal factors."""

    low: float
    high: float

    @classmethod
    def over(cls, sizes: Sequence[int]) -> "BytesAxis":
        """Returns an axis from the smallest to the largest of `sizes`, with room on either side.

        There is more room on the left, where the labels of the other axis stand.
        """
        low, high = min(sizes), max(sizes)
        whole = high / low if high > low else 2.0
        return cls(low / whole**0.13, high * whole**0.05)

    def place(self, size: float) -> float:
        """Returns the percent from the left."""
        return 100 * math.log(size / self.low) / math.log(self.high / self.low)

    @property
    def ticks(self) -> list[Tick]:
        """Powers of two of bytes; where fewer than three fit, also 1.25 and 1.5 times them."""
        first, last = math.ceil(math.log2(self.low)), math.floor(math.log2(self.high))
        step = max(1, math.ceil((last - first + 1) / MOST_TICKS))
        sizes = [2.0**power for power in range(first, last + 1, step)]
        if len(sizes) < 3:
            sizes = [f * 2.0**power for power in range(first - 1, last + 1) for f in (1, 1.25, 1.5)]
        return [
            Tick(self.place(size), short_bytes(size))
            for size in sizes
            if self.low <= size <= self.high
        ]


@dataclass(frozen=True)
class LinearAxis:
    """A value from `low` to `high`, both multiples of `step`."""

    low: float
    high: float
    step: float

    @classmethod
    def over(
        cls, values: Sequence[float], *, most: int = MOST_TICKS, room: float = 0
    ) -> "LinearAxis":
        """Returns an axis around all of `values` that begins and ends at round numbers.

        Args:
            most: About how many ticks.
            room: Share of the values' range that stays free below the lowest.
        """
        low, high = min(values), max(values)
        low -= room * (high - low)
        if high - low <= 1e-9 * max(abs(low), abs(high), 1):
            room = max(abs(high) * 0.1, 1e-3)
            low, high = low - room, high + room
        step = _round_up((high - low) / (most - 1))
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step, step)

    def place(self, value: float) -> float:
        """Returns the percent from the bottom."""
        return 100 * (value - self.low) / (self.high - self.low)

    @property
    def digits(self) -> int:
        """The decimals that a label needs."""
        return next(d for d in range(20) if abs(round(self.step, d) - self.step) < 1e-6 * self.step)

    @property
    def ticks(self) -> list[Tick]:
        count = round((self.high - self.low) / self.step)
        values = [self.low + index * self.step for index in range(count + 1)]
        return [Tick(self.place(v), f"{v:.{self.digits}f}") for v in values]


@dataclass(frozen=True)
class LogAxis:
    """A value above 0 on a logarithmic scale, between powers of ten."""

    low: int  # power of ten
    high: int

    @classmethod
    def over(cls, values: Sequence[float]) -> "LogAxis":
        """Returns an axis around all of `values`."""
        low = math.floor(math.log10(min(values)))
        return cls(low, max(low + 1, math.ceil(math.log10(max(values)))))

    def place(self, value: float) -> float:
        """Returns the percent from the bottom."""
        return 100 * (math.log10(value) - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[Tick]:
        step = max(1, math.ceil((self.high - self.low) / MOST_TICKS))
        powers = range(self.low, self.high + 1, step)
        return [Tick(self.place(10.0**power), f"{10.0**power:g}") for power in powers]


def _round_up(step: float) -> float:
    """Returns the least of 1, 2, 2.5, 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * min(f for f in (1, 2, 2.5, 5, 10) if f * power >= step * (1 - 1e-9))


def short_bytes(size: float) -> str:
    """Returns bytes in words with at most four digits, for example `768 KiB` or `1.5 MiB`."""
    units = ["B", *(f"{prefix.upper()}iB" for prefix in PREFIXES)]
    power = min(int(math.log2(size) // 10), len(units) - 1) if size >= 1 else 0
    return f"{size / 1024**power:.4g} {units[power]}"
