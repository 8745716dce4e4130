"""Makes the table of task scores: a column for every metric of a task, a line for every model.

Does not run the tasks; see `metrics.tasks.runner`.
"""

import math
from dataclasses import dataclass

from bitstack.metrics.report.along_curve import ORIGINAL
from bitstack.metrics.report.data import Report
from bitstack.metrics.tasks.scores import TaskScore


@dataclass(frozen=True)
class Cell:
    """The score of one model, in words."""

    score: str  # with its standard error
    recovery: str  # the share of the original's score that is kept; empty where it is not defined


@dataclass(frozen=True)
class Column:
    """One metric of one task, for all models."""

    task: str
    metric: str
    better: str  # lower or higher
    how: str  # number of documents, and of examples before each
    cells: list[Cell]  # in the order of the lines


@dataclass(frozen=True)
class Line:
    """One model."""

    name: str  # of the budget, or "original"
    bytes: int  # resident


@dataclass(frozen=True)
class ScoreTable:
    """Lines, the original first and then the largest budget, and columns with a cell for each."""

    lines: list[Line]
    columns: list[Column]


def score_table(report: Report) -> ScoreTable | None:
    """Returns the scores of a report as a table; None where no tasks were run."""
    models = [(Line(row.name, row.plan.resident_bytes), row.tasks) for row in report.rows[::-1]]
    if report.original:
        whole = Line(ORIGINAL, report.manifest.original_bytes)
        models.insert(0, (whole, report.original.tasks))
    scores = [tasks for _, tasks in models]
    columns = [_column(each) for each in zip(*scores, strict=True)]
    return ScoreTable([line for line, _ in models], columns) if columns else None


def _column(scores: tuple[TaskScore, ...]) -> Column:
    first = scores[0]
    assert len({(one.task, one.metric) for one in scores}) == 1
    better = "higher" if first.higher_is_better else "lower"
    cells = [Cell(_score(one), _recovery(one)) for one in scores]
    how = f"{first.documents:,} documents, {first.fewshot}-shot" if first.documents else "group"
    return Column(first.task, first.metric, better, how, cells)


def _score(one: TaskScore) -> str:
    """Writes a score with four decimals; a perplexity of 10 and more with four digits."""
    form = ".4f" if abs(one.value) < 10 else ".4g"
    error = one.standard_error
    if error is None or not math.isfinite(error):
        return f"{one.value:{form}}"
    return f"{one.value:{form}} ± {error:{form}}"


def _recovery(one: TaskScore) -> str:
    if one.recovery is None:
        return ""
    ends = one.recovery_interval
    if ends is None or not (math.isfinite(ends.low) and math.isfinite(ends.high)):
        return f"{one.recovery:.1%}"
    return f"{one.recovery:.1%} ({ends.low:.1%} to {ends.high:.1%})"
