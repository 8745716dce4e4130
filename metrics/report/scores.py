"""Task scores as a table: a column for every metric of a task, and the words of its cells."""

import math
from dataclasses import dataclass

from bitstack.metrics.report.along_curve import ORIGINAL
from bitstack.metrics.report.data import Report
from bitstack.metrics.tasks.scores import TaskScore


@dataclass(frozen=True)
class Cell:
    """One model's score, and the share of the original's that it keeps."""

    score: str  # with its standard error
    recovery: str  # with its interval; empty where none is defined


@dataclass(frozen=True)
class Column:
    """One metric of one task, of all models."""

    task: str
    metric: str
    better: str  # lower or higher
    how: str  # documents and examples before each
    cells: list[Cell]  # in the order of `score_table`


@dataclass(frozen=True)
class Line:
    """One model: its name and resident bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class ScoreTable:
    """Models, the original first and then the largest, and columns with a cell for each."""

    lines: list[Line]
    columns: list[Column]


def score_table(report: Report) -> ScoreTable | None:
    """The scores of a report; None where no tasks were run."""
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
    """An accuracy with four decimals; a perplexity may have any size."""
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
