"""Makes the charts of the three metrics along the curve: which figures, in which unit and words.

Does not measure; see `metrics.report.along_curve`.
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
    """The charts of one metric."""

    title: str
    words: str  # what the metric tells and how to read it
    charts: list[Chart]
    reasons: list[str]  # why figures are missing


@dataclass(frozen=True)
class _ChartPlan:
    """What one chart shows: which value of a CurvePoint, and in which words."""

    key: str
    title: str
    unit: str
    better: str  # lower or higher
    digits: int
    field: str  # of CurvePoint, that must not be None
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
        "Bits of text that the model saves by predicting it, divided by the logarithm of what that "
        "costs (arXiv 2511.08066). As published, the cost is the FLOPs of a token, which "
        "compression leaves as they are. By bytes, it is the {denominator} for a byte of text.",
        (
            _ChartPlan("capacity", "As published", "bits per token / log₂ FLOPs", "higher", 4,
                       "faithful", _capacity("faithful")),
            _ChartPlan("capacity-bytes", "By bytes", "bits per byte / log₂ {denominator}", "higher",
                       4, "by_bytes", _capacity("by_bytes")),
        ),
    ),
    (
        "Capacity density",
        "The size at which a reference model has the same loss, divided by this model’s size "
        "(arXiv 2412.04315). 1: as good as a reference model of its size; 0.5: as good as one of "
        "half the size. By bytes, the reference model has 2 bytes per parameter. Sizes beyond "
        "those of the reference models are extrapolated and say little. A dot without a bar: its "
        "interval has no end on one side.",
        (
            _ChartPlan("density", "By parameters", "reference / own parameters", "higher", 3,
                       "density", _density("density", "density_interval")),
            _ChartPlan("density-bytes", "By bytes", "reference / own bytes", "higher", 3,
                       "density", _density("byte_density", "byte_interval")),
        ),
    ),
    (
        "Capacity gap",
        "How far the predictions are from the original’s (after arXiv 2311.07052). KL divergence: "
        "0 means the same probabilities. Agreement: how often both models hold the same token for "
        "the most likely one.",
        (
            _ChartPlan("kl", "KL divergence", "nats per token", "lower", 4, "gap", _gap("kl")),
            _ChartPlan("agreement", "Agreement", "% of tokens", "higher", 1,
                       "gap", _gap("agreement", 100)),
        ),
    ),
)  # fmt: skip


def metric_groups(curve: MetricsCurve, rows: Sequence[Row], axis: BytesAxis) -> list[Group]:
    """Returns the charts of every metric; budgets get the names that they have in `rows`."""
    names = {row.plan.resident_bytes: row.name for row in rows}
    denominator = {"bytes": "bytes moved", "flops": "FLOPs"}.get(curve.denominator, "")
    return [
        Group(
            title,
            words.format(denominator=denominator),
            [c for c in (_chart(curve, p, names, axis, denominator) for p in plans) if c],
            _reasons(curve, [p.field for p in plans]),
        )
        for title, words, plans in _GROUPS
    ]


def _chart(
    curve: MetricsCurve, plan: _ChartPlan, names: dict[int, str], axis: BytesAxis, denominator: str
) -> Chart | None:
    def figure(point: CurvePoint) -> Figure:
        value: Value = (None, None)
        if getattr(point, plan.field) is not None:
            value = plan.value(point)
        name = ORIGINAL if point.budget == ORIGINAL else names[point.resident_bytes]
        return name, point.resident_bytes, *value

    figures = [figure(point) for point in curve.points]
    original = next((one for one in figures if one[0] == ORIGINAL), None)
    return make_chart(
        plan.key, plan.title, plan.unit.format(denominator=denominator),
        [one for one in figures if one is not original], original, axis,
        digits=plan.digits, better=plan.better, ticks=4,
    )  # fmt: skip


def _reasons(curve: MetricsCurve, fields: list[str]) -> list[str]:
    """Returns why figures of `fields` are missing, each reason once; the original has no gap."""
    reasons: dict[str, None] = {}
    for point in curve.points:
        for field in dict.fromkeys(fields):
            if field in point.undefined and not (field == "gap" and point.budget == ORIGINAL):
                reasons.setdefault(point.undefined[field].removeprefix("not defined: "))
    return list(reasons)
