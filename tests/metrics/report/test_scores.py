"""Cells of the table of task scores. That they are those of the tasks: see `test_render`."""

from dataclasses import replace

from bitstack.metrics.report import Report
from bitstack.metrics.report.scores import Cell, score_table
from bitstack.metrics.statistics.bootstrap import Interval


def test_scores_that_have_no_error_or_interval(report: Report) -> None:
    """A score of one document has neither, a resample without a right answer no end."""
    row = report.rows[0]
    endless = Interval(0.5, float("inf"))
    one = replace(
        row.tasks[0], standard_error=None, recovery=0.5, recovery_interval=endless, value=0.25
    )
    scores = score_table(replace(report, original=None, rows=[replace(row, tasks=(one,))]))
    assert scores is not None
    (column,) = scores.columns
    assert column.cells == [Cell("0.2500", "50.0%")]


def test_a_group_of_tasks_has_no_documents_of_its_own(report: Report) -> None:
    rows = [
        replace(row, tasks=tuple(replace(one, documents=0) for one in row.tasks))
        for row in report.rows
    ]
    scores = score_table(replace(report, original=None, rows=rows))
    assert scores is not None
    assert {column.how for column in scores.columns} == {"group"}
    assert [line.name for line in scores.lines] == [row.name for row in reversed(rows)]
