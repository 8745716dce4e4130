"""Reads reports as lines to compare: bytes, loss and KL divergence of one container at its budgets.

A report is the record that `write_report` keeps as JSON. Does not measure, see
`metrics.report.figures`, and does not draw, see `metrics.report.compare`.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bitstack.errors import UserError
from bitstack.machine.json_file import read_json
from bitstack.metrics.report.data import FORMAT

_MOST_BYTES = 256 << 20
_TERMS = ("text_sha256", "tokens", "window", "stride")  # losses compare only where they are alike


@dataclass(frozen=True)
class Point:
    """One model; what was not measured is None."""

    name: str  # of the budget
    bytes: int  # in memory
    bits_per_weight: float | None
    loss: float | None  # bits per byte
    perplexity: float | None
    kl: float | None  # nats per token, from the original
    speed: float | None  # tokens per second


@dataclass(frozen=True)
class Series:
    """One container."""

    name: str
    base_model: str
    points: list[Point]  # in order of bytes
    original: Point | None
    terms: tuple[Any, ...] | None  # of the loss: text, tokens, window, stride; None: no loss

    def loss_at(self, size: int) -> float | None:
        """Returns the loss at `size` bytes, on the line between two points; None outside."""
        known = [(p.bytes, p.loss) for p in self.points if p.loss is not None]
        for (low, above), (high, below) in pairwise(known):
            if low <= size <= high:
                share = math.log(size / low) / math.log(high / low)
                return above + share * (below - above)
        return next((loss for own, loss in known if own == size), None)


def read_records(file: Path) -> list[dict[str, Any]]:
    """Returns the reports in a JSON file: one, or those of an earlier comparison.

    Raises:
        UserError: It is missing, damaged, or no report of this format.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; name a container, or the .json of a report")
    record = read_json(file, _MOST_BYTES)
    records = record.get("reports", [record]) if isinstance(record, dict) else [record]
    for one in records:
        try:
            if one["format"] != FORMAT:
                raise ValueError
            series(one, "")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise UserError(
                f"{file}: no report; name the .json that `compress-model report` wrote"
            ) from None
    return list(records)


def series(record: dict[str, Any], name: str) -> Series:
    """Returns a report as a line, called `name`."""
    metrics = record["metrics"] or {"points": []}
    gaps = {p["resident_bytes"]: p["gap"] and p["gap"]["kl"] for p in metrics["points"]}
    points = [_point(row, row["name"], row["plan"], gaps) for row in record["rows"]]
    original, scored = record["original"], [r["scored"] for r in record["rows"] if r["scored"]]
    size = {"resident_bytes": record["original_bytes"], "bits_per_weight": None}
    return Series(
        name=name,
        base_model=str(record["base_model"]),
        points=sorted(points, key=lambda point: point.bytes),
        original=original and _point(original, "original", size, {}),
        terms=tuple(scored[0][term] for term in _TERMS) if scored else None,
    )


def _point(row: dict[str, Any], name: str, size: dict[str, Any], gaps: dict[int, Any]) -> Point:
    scored = row["scored"] or {"bits_per_byte": None, "perplexity": None}
    return Point(
        name, int(size["resident_bytes"]), size["bits_per_weight"], scored["bits_per_byte"],
        scored["perplexity"], gaps.get(size["resident_bytes"]), row["tokens_per_second"],
    )  # fmt: skip
