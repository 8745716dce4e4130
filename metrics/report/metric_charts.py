"""The three metrics along the curve as charts: which of their figures, in which unit and words.

What they mean and how they are computed is in `bitstack.metrics`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitstack.metrics.report.along_curve import ORIGINAL, CurvePoint, MetricsCurve
from bitstack.metrics.report.axis import BytesAxis
from bitstack.metrics.report.charts import Chart, Figure, make_chart
from bitstack.metrics.report.data import Row
from bitstack.metrics.statistics.bootstrap import Interval

Value = tuple[float | None, Interval | None]


@dataclass(frozen=True)
class Group:
    """One metric: its charts, and why a figure is missing from them."""

    title: str
    words: str
    charts: list[Chart]
    reasons: list[str]


@dataclass(frozen=True)
class _Plan:
    """One chart: which field of a CurvePoint, and its value there."""

    key: str
    title: str
    unit: str
    better: str
    digits: int
    field: str  # of CurvePoint
    value: Callable[[CurvePoint], Value]


def _capacity(field: str) -> Callable[[CurvePoint], Value]:
    return lambda p: (getattr(p, field).information_capacity, getattr(p, field).interval)


def _density(value: str, interval: str) -> Callable[[CurvePoint], Value]:
    return lambda p: (getattr(p.density, value), getattr(p.density, interval))


def _gap(field: str, factor: float = 1) -> Callable[[CurvePoint], Value]:
    def value(point: CurvePoint) -> Value:
        assert point.gap is not None
        ends = point.gap.intervals[field]
        scaled = ends and Interval(factor * ends.low, factor * ends.high, ends.level)
        return factor * getattr(point.gap, field), scaled

    return value


_GROUPS = (
    (
        "Information capacity",
        "Bits a model saves on text, over the logarithm of what they cost (arXiv 2511.08066).",
        (
            _Plan("capacity", "As published", "bits per log₂ FLOPs", "higher", 4,
                  "faithful", _capacity("faithful")),
            _Plan("capacity-bytes", "By bytes", "bits per log₂ {denominator}", "higher", 4,
                  "by_bytes", _capacity("by_bytes")),
        ),
    ),
    (
        "Capacity density",
        "The size a reference model would need for the same loss, over the model’s own "
        "(arXiv 2412.04315). No bar: an end of it is unbounded.",
        (
            _Plan("density", "By parameters", "ρ, reference over it", "higher", 3,
                  "density", _density("density", "density_interval")),
            _Plan("density-bytes", "By bytes stored", "16-bit reference over it", "higher", 3,
                  "density", _density("byte_density", "byte_interval")),
        ),
    ),
    (
        "Capacity gap",
        "How far the predictions are from the original’s (after arXiv 2311.07052).",
        (
            _Plan("kl", "KL divergence", "nats per token", "lower", 4, "gap", _gap("kl")),
            _Plan("agreement", "Same most likely token", "% of tokens", "higher", 1,
                  "gap", _gap("agreement", 100)),
        ),
    ),
)  # fmt: skip


def metric_groups(curve: MetricsCurve, rows: Sequence[Row], axis: BytesAxis) -> list[Group]:
    """One group a metric; names of the points are those of `rows`."""
    names = {row.plan.resident_bytes: row.name for row in rows}
    denominator = {"bytes": "bytes moved", "flops": "FLOPs"}.get(curve.denominator, "")
    return [
        Group(
            title,
            words,
            [c for c in (_chart(curve, p, names, axis, denominator) for p in plans) if c],
            _reasons(curve, [p.field for p in plans]),
        )
        for title, words, plans in _GROUPS
    ]


def _chart(
    curve: MetricsCurve, plan: _Plan, names: dict[int, str], axis: BytesAxis, denominator: str
) -> Chart | None:
    def figure(point: CurvePoint) -> Figure:
        value: Value = (None, None)
        if getattr(point, plan.field) is not None:
            value = plan.value(point)
        name = ORIGINAL if point.budget == ORIGINAL else names[point.resident_bytes]
        return name, point.resident_bytes, *value

    figures = [figure(point) for point in curve.points]
    first = next((one for one in figures if one[0] == ORIGINAL), None)
    return make_chart(
        plan.key, plan.title, plan.unit.format(denominator=denominator),
        [one for one in figures if one is not first], first, axis,
        digits=plan.digits, better=plan.better, ticks=4,
    )  # fmt: skip


def _reasons(curve: MetricsCurve, fields: list[str]) -> list[str]:
    """Why figures of `fields` are not there, each reason once; the original has no gap."""
    found: dict[str, None] = {}
    for point in curve.points:
        for field in dict.fromkeys(fields):
            if field in point.undefined and not (field == "gap" and point.budget == ORIGINAL):
                found.setdefault(point.undefined[field])
    return list(found)
