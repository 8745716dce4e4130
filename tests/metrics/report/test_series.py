"""A report's JSON gives the line of its container, and anything else is refused in one line."""

import json
from pathlib import Path

import pytest

from bitstack.errors import UserError
from bitstack.metrics.report import Report, write_report
from bitstack.metrics.report.series import Point, Series, read_records, series


def test_a_report_is_read_as_it_was_written(report: Report, tmp_path: Path) -> None:
    *_, numbers = write_report(report, tmp_path / "r.html")
    (record,) = read_records(numbers)
    line = series(record, "mine")
    assert [point.name for point in line.points] == [row.name for row in report.rows]
    assert report.metrics is not None
    gaps = [point.gap for point in report.metrics.points[1:]]
    for point, row, gap in zip(line.points, report.rows, gaps, strict=True):
        assert row.scored is not None
        assert gap is not None
        assert point.bytes == row.plan.resident_bytes
        assert (point.loss, point.kl) == (row.scored.bits_per_byte, gap.kl)
        assert line.loss_at(point.bytes) == pytest.approx(point.loss)
    assert line.original is not None
    assert line.original.bytes == report.manifest.original_bytes
    assert line.terms is not None
    assert line.terms[2] == 32


def test_between_two_points_the_loss_is_on_the_line() -> None:
    points = [
        Point(str(size), size, None, loss, None, None, None)
        for size, loss in ((100, 4.0), (400, 2.0), (800, None))
    ]
    line = Series("s", "b", points, None, None)
    assert line.loss_at(200) == pytest.approx(3.0)  # half-way in factors
    assert line.loss_at(400) == pytest.approx(2.0)
    assert line.loss_at(99) is line.loss_at(500) is None
    assert Series("s", "b", points[:1], None, None).loss_at(100) == 4.0


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 99}', '{"reports": [{}]}'])
def test_other_files_are_no_reports(tmp_path: Path, content: str) -> None:
    file = tmp_path / "r.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"r\.json: (no report|damaged)"):
        read_records(file)
    with pytest.raises(UserError, match="no such file"):
        read_records(tmp_path / "none.json")


def test_a_comparison_holds_reports(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "both.json"
    record = json.loads(json.dumps(report.to_json()))
    file.write_text(json.dumps({"format": 1, "reports": [record, record]}))
    assert read_records(file) == [record, record]
