"""Makes the table of task scores: a column for every metric of a task, a line for every model.

Does not run the tasks; see `metrics.tasks.runner`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bitstack.metrics.report.along_curve import ORIGINAL
from bitstack.metrics.report.data import Report
from bitstack.metrics.tasks.predicted import ScoreAt
from bitstack.metrics.tasks.scores import TaskScore

Scores = Sequence[TaskScore | ScoreAt]  # of one model


@dataclass(frozen=True)
class Cell:
    """The score of one model, in words."""

    score: str  # with its standard error
    recovery: str  # the share of the original's score that is kept; empty where it is not defined
    predicted: bool = False  # from other sizes, with its interval in place of the standard error


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

    @property
    def predicts(self) -> bool:
        """Whether some scores are predicted."""
        return any(cell.predicted for column in self.columns for cell in column.cells)


def score_table(report: Report) -> ScoreTable | None:
    """Returns the scores of a report as a table; None where no tasks were run."""
    lines = [Line(row.name, row.plan.resident_bytes) for row in report.rows[::-1]]
    models: list[Scores] = [row.tasks or row.predicted for row in report.rows[::-1]]
    if report.original:
        lines.insert(0, Line(ORIGINAL, report.manifest.original_bytes))
        models.insert(0, report.original.tasks)
    ran = [scores for scores in models if scores and isinstance(scores[0], TaskScore)]
    columns = [_column(one, models) for one in ran[0] if isinstance(one, TaskScore)] if ran else []
    return ScoreTable(lines, columns) if columns else None


def _column(first: TaskScore, models: Sequence[Scores]) -> Column:
    better = "higher" if first.higher_is_better else "lower"
    cells = [_cell(first, scores) for scores in models]
    how = f"{first.documents:,} documents, {first.fewshot}-shot" if first.documents else "group"
    return Column(first.task, first.metric, better, how, cells)


def _cell(first: TaskScore, scores: Scores) -> Cell:
    """The score of the same task and metric as `first`; a dash where there is none."""
    for one in scores:
        if (one.task, one.metric) == (first.task, first.metric):
            if isinstance(one, TaskScore):
                return Cell(_score(one), _recovery(one))
            return Cell(_prediction(one), _share(one.recovery), predicted=True)
    return Cell("–", "")


def _prediction(one: ScoreAt) -> str:
    if one.interval is None:
        return f"≈ {one.value:.4f}"
    return f"≈ {one.value:.4f} ({one.interval.low:.4f} to {one.interval.high:.4f})"


def _share(recovery: float | None) -> str:
    return "" if recovery is None else f"{recovery:.1%}"


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
