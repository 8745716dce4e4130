"""Makes the charts of the three metrics along the curve: which figures, in which unit and words.

Does not measure; see `metrics.report.along_curve`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitstack.metrics.report.along_curve import ORIGINAL, CurvePoint, MetricsCurve
from bitstack.metrics.report.axis import BytesAxis
from bitstack.metrics.report.charts import Chart, Figure, make_chart
from bitstack.metrics.statistics.bootstrap import Interval

FEW = 10  # passages: intervals over fewer are too narrow
Value = tuple[float | None, Interval | None]


@dataclass(frozen=True)
class Group:
    """The charts of one metric."""

    title: str
    tells: str  # what it says
    better: str  # which way is better
    use: str  # what to do with it
    charts: list[Chart]
    missing: list[str]  # which figures are missing, and why


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
        "How much the model predicts for what a token costs: the bits of text it saves, over the "
        "logarithm of the cost (arXiv 2511.08066). As published, the cost is arithmetic (FLOPs), "
        "which compression leaves as it is. By bytes, it is the {denominator} for a byte of text.",
        "Higher is better.",
        "Where the curve by bytes is highest, a byte of memory traffic buys the most. The value as "
        "published compares families of models, not budgets.",
        (
            _ChartPlan("capacity", "As published", "bits per token / log₂ FLOPs", "higher", 4,
                       "faithful", _capacity("faithful")),
            _ChartPlan("capacity-bytes", "By bytes", "bits per byte / log₂ {denominator}", "higher",
                       4, "by_bytes", _capacity("by_bytes")),
        ),
    ),
    (
        "Capacity density",
        "The size that an ordinary model needs to predict as well, over this model’s size "
        "(arXiv 2412.04315). 1: it is worth its size; 0.5: as good as a model of half the size. By "
        "bytes, the ordinary model has 2 bytes per parameter. A dot without a bar: its interval "
        "has no end on one side.",
        "Higher is better.",
        "Where the curve by bytes is highest, memory is used best. Sizes beyond those of the "
        "reference models are extrapolated and say little.",
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
        "Lower KL divergence and higher agreement are better.",
        "Take the smallest budget from which on the curve is flat: more memory changes little in "
        "what the model says.",
        (
            _ChartPlan("kl", "KL divergence", "nats per token", "lower", 4, "gap", _gap("kl")),
            _ChartPlan("agreement", "Agreement", "% of tokens", "higher", 1,
                       "gap", _gap("agreement", 100)),
        ),
    ),
)  # fmt: skip


def metric_groups(curve: MetricsCurve, axis: BytesAxis) -> list[Group]:
    """Returns the charts of every metric."""
    denominator = {"bytes": "bytes moved", "flops": "FLOPs"}.get(curve.denominator, "")
    return [
        Group(
            title,
            tells.format(denominator=denominator),
            better,
            use,
            [c for c in (_chart(curve, p, axis, denominator) for p in plans) if c],
            _missing(curve, plans),
        )
        for title, tells, better, use, plans in _GROUPS
    ]


def interval_words(curve: MetricsCurve) -> str:
    """Says what the intervals are, or why there are none."""
    if curve.documents < 2:
        return (
            "There are no confidence intervals: the text that was read is a single passage. "
            "--max-tokens reads more."
        )
    words = (
        f"Intervals are 95% confidence intervals, by bootstrap over {curve.documents:,} passages "
        f"({curve.text_bytes:,} bytes), seed {curve.seed}"
    )
    few = "; over so few they are too narrow, and --max-tokens reads more"
    return words + (few if curve.documents < FEW else "") + "."


def _chart(
    curve: MetricsCurve, plan: _ChartPlan, axis: BytesAxis, denominator: str
) -> Chart | None:
    def figure(point: CurvePoint) -> Figure:
        value, interval = None, None
        if getattr(point, plan.field) is not None:
            value, interval = plan.value(point)
        # One passage has no spread; what was drawn within it would look like a small one.
        return point.budget, point.resident_bytes, value, interval if curve.documents > 1 else None

    figures = [figure(point) for point in curve.points]
    original = next((one for one in figures if one[0] == ORIGINAL), None)
    return make_chart(
        plan.key, plan.title, plan.unit.format(denominator=denominator),
        [one for one in figures if one is not original], original, axis,
        digits=plan.digits, better=plan.better, ticks=4,
    )  # fmt: skip


def _missing(curve: MetricsCurve, plans: Sequence[_ChartPlan]) -> list[str]:
    """Says where figures are missing and why; reasons that differ in a number only are one."""
    titles: dict[str, list[str]] = {}
    for plan in plans:
        titles.setdefault(plan.field, []).append(plan.title)
    lines = []
    for field, charts in titles.items():
        points = [p for p in curve.points if field != "gap" or p.budget != ORIGINAL]
        what = "" if len(titles) == 1 else f"{charts[0]}: "
        lines += [_sentence(what + words) for words in _reasons(points, field)]
    return lines


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def _reasons(points: Sequence[CurvePoint], field: str) -> list[str]:
    found: dict[str, tuple[str, list[str]]] = {}
    for point in points:
        if reason := point.undefined.get(field):
            kind = re.sub(r"\d[\d.,]*", "", reason)
            found.setdefault(kind, (reason, []))[1].append(point.budget)
    lines = []
    for reason, names in found.values():
        where = "" if len(names) == len(points) else f" at {', '.join(names)}"
        lines.append(f"not defined{where}: {reason}")
    return lines
