"""The charts of the three metrics hold what was measured, and say why a figure is missing."""

from dataclasses import replace

import pytest

from bitstack.metrics.report import Report
from bitstack.metrics.report.charts import bytes_axis
from bitstack.metrics.report.metric_charts import Group, metric_groups


def groups(report: Report, **changes: object) -> list[Group]:
    assert report.metrics is not None
    curve = replace(report.metrics, **changes)  # type: ignore[arg-type]
    return metric_groups(curve, report.rows, bytes_axis(report))


def test_every_metric_has_its_charts(report: Report) -> None:
    capacity, _, gap = groups(report)
    assert [one.key for one in capacity.charts] == ["capacity", "capacity-bytes"]
    assert [one.key for one in gap.charts] == ["kl", "agreement"]
    assert report.metrics is not None
    points = report.metrics.points[1:]
    for group, name in ((capacity, "faithful"), (gap, "gap")):
        marks = group.charts[0].marks
        assert [mark.name for mark in marks] == [row.name for row in report.rows]
        for mark, point in zip(marks, points, strict=True):
            measured = getattr(point, name)
            value = measured.kl if name == "gap" else measured.information_capacity
            assert (mark.value, mark.bytes) == (value, point.resident_bytes)
    agreement = gap.charts[1].marks[0]
    assert points[0].gap is not None
    assert agreement.value == pytest.approx(100 * points[0].gap.agreement)
    ends = points[0].gap.intervals["agreement"]
    assert agreement.interval is not None
    assert ends is not None
    assert agreement.interval.high == pytest.approx(100 * ends.high)


def test_what_is_missing_says_why_once(report: Report) -> None:
    capacity, density, gap = groups(report)
    assert density.charts == []
    (reason,) = density.reasons
    assert "tokenizer" in reason
    assert capacity.reasons == gap.reasons == []
    assert gap.charts[0].original is None, "the original has no gap to itself"
    assert capacity.charts[0].original is not None


def test_the_words_name_the_cost_of_the_variant_by_bytes(report: Report) -> None:
    for name, words in (("bytes", "bytes moved"), ("flops", "FLOPs")):
        capacity = groups(report, denominator=name)[0]
        assert capacity.charts[1].unit == f"bits per byte / log₂ {words}"
        assert f"it is the {words} for a byte of text" in capacity.words
