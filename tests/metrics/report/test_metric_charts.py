"""The charts of the three metrics hold what was measured, and say why a figure is missing."""

from dataclasses import replace

import pytest

from bitstack.metrics.report import Report
from bitstack.metrics.report.charts import bytes_axis
from bitstack.metrics.report.metric_charts import FEW, Group, interval_words, metric_groups


def groups(report: Report, **changes: object) -> list[Group]:
    assert report.metrics is not None
    curve = replace(report.metrics, **changes)  # type: ignore[arg-type]
    return metric_groups(curve, bytes_axis(report))


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
    (words,) = density.missing
    assert words.startswith("Not defined: the density law")
    assert capacity.missing == gap.missing == []
    assert gap.charts[0].original is None, "the original has no gap to itself"
    assert capacity.charts[0].original is not None


def test_the_words_name_the_cost_of_the_variant_by_bytes(report: Report) -> None:
    for name, words in (("bytes", "bytes moved"), ("flops", "FLOPs")):
        capacity = groups(report, denominator=name)[0]
        assert capacity.charts[1].unit == f"bits per byte / log₂ {words}"
        assert f"it is the {words} for a byte of text" in capacity.tells


def test_reasons_that_differ_in_a_number_are_one_and_name_the_budgets(report: Report) -> None:
    assert report.metrics is not None
    lost = {2: "loss 3.6 is out of reach", 3: "loss 3.25 is out of reach"}
    points = [
        replace(point, faithful=None, undefined={"faithful": lost[i]}) if i in lost else point
        for i, point in enumerate(report.metrics.points)
    ]
    capacity = groups(report, points=points)[0]
    names = f"{points[2].budget}, {points[3].budget}"
    assert capacity.missing == [f"As published: not defined at {names}: loss 3.6 is out of reach."]
    assert len(capacity.charts[0].marks) == len(report.rows) - 2


def test_one_passage_has_no_interval(report: Report) -> None:
    assert report.metrics is not None
    alone = replace(report.metrics, documents=1)
    for group in groups(report, documents=1):
        for chart in group.charts:
            assert {mark.interval for mark in chart.all} == {None}
    assert "no confidence intervals" in interval_words(alone)
    assert "too narrow" in interval_words(replace(alone, documents=FEW - 1))
    assert "too narrow" not in interval_words(replace(alone, documents=FEW))


def test_every_metric_says_what_it_tells_which_way_is_better_and_what_to_do(
    report: Report,
) -> None:
    for group in groups(report):
        assert group.better.endswith("better.")
        assert len(group.tells) > len(group.use) > 50
