"""Fits the line from student size to best teacher on your own distillation runs.

The best teacher of a student size is the vertex of a parabola of the loss over ln T, through the
best teacher tried and its two neighbours. Where the smallest or largest teacher tried is the best,
the optimum may lie beyond it: that student is listed and left out of the line, which is fitted as
in arXiv 2311.07052. Does not run distillations; see `scripts/pilot_capacity_gap.py`.
"""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitstack.errors import UserError
from bitstack.machine.extras import require
from bitstack.machine.json_file import reason_of
from bitstack.metrics.statistics.bootstrap import Interval
from bitstack.metrics.statistics.student_t import t_quantile

FIELDS = ("student", "teacher", "loss")


@dataclass(frozen=True)
class Run:
    """One distilled student."""

    student: float  # parameters
    teacher: float
    loss: float  # of the student on held-out text, nats per token


@dataclass(frozen=True)
class Optimum:
    """The best teacher of one student size."""

    student: float  # parameters
    teacher: float
    loss: float  # of the student, nats per token
    teachers_tried: int
    edge: str | None  # "smallest" or "largest" of those tried: the optimum may lie beyond it


@dataclass(frozen=True)
class GapLine:
    """`T* = slope·S + intercept` over the interior optima, those at no edge of the teachers tried.

    Figures are None with fewer than two interior optima; `reason` then says so.
    """

    slope: float | None
    slope_interval: Interval | None  # needs three interior optima
    intercept: float | None  # parameters
    intercept_interval: Interval | None
    r_squared: float | None
    ratio: float | None  # mean of T*/S over the interior optima
    optima: tuple[Optimum, ...]  # all, smallest student first
    reason: str | None


def read_runs(path: str | Path) -> list[Run]:
    """Reads runs from a CSV file with a header or a JSON list; fields student, teacher, loss.

    Raises:
        UserError: the file cannot be read, or a row cannot be used; the message names the field.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
        rows: Any = (
            list(csv.DictReader(text.splitlines()))
            if Path(path).suffix == ".csv"
            else json.loads(text)
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({reason_of(error)}); give a CSV or a JSON list"
        ) from None
    if isinstance(rows, dict):
        rows = rows.get("runs")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: no rows; each must have the fields {', '.join(FIELDS)}")
    return [_run(row, f"{path} row {index}") for index, row in enumerate(rows, start=1)]


def fit_gap(runs: Sequence[Run]) -> GapLine:
    """Fits the line. Runs of the same student and teacher are averaged.

    Raises:
        UserError: no student has runs from two teachers or more.
    """
    losses: dict[float, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        losses[run.student][run.teacher].append(run.loss)
    optima = [best for student in sorted(losses) if (best := _optimum(student, losses[student]))]
    if not optima:
        raise UserError(f"{len(runs)} runs: no student has two teachers, so none is the best")
    interior = [best for best in optima if best.edge is None]
    if len(interior) < 2:
        reason = (
            f"{len(interior)} of {len(optima)} student sizes have a best teacher between others; "
            "a line needs at least 2"
        )
        return GapLine(None, None, None, None, None, _ratio(interior), tuple(optima), reason)
    return _line(interior, tuple(optima))


def _line(interior: list[Optimum], optima: tuple[Optimum, ...]) -> GapLine:
    require("scipy")
    from scipy import stats

    line = stats.linregress([o.student for o in interior], [o.teacher for o in interior])
    freedom = len(interior) - 2
    t = t_quantile(freedom) if freedom else math.nan

    def around(centre: float, error: float) -> Interval | None:
        return Interval(centre - t * error, centre + t * error) if freedom else None

    slope, intercept = float(line.slope), float(line.intercept)
    return GapLine(
        slope=slope,
        slope_interval=around(slope, float(line.stderr)),
        intercept=intercept,
        intercept_interval=around(intercept, float(line.intercept_stderr)),
        r_squared=float(line.rvalue) ** 2 if freedom else None,
        ratio=_ratio(interior),
        optima=optima,
        reason=None,
    )


def _optimum(student: float, losses: dict[float, list[float]]) -> Optimum | None:
    teachers = sorted(losses)
    if len(teachers) < 2:
        return None
    means = [float(np.mean(losses[teacher])) for teacher in teachers]
    best = int(np.argmin(means))
    if best in (0, len(teachers) - 1):
        edge = "largest" if best else "smallest"
        return Optimum(student, teachers[best], means[best], len(teachers), edge)
    some = slice(best - 1, best + 2)
    x = np.log(teachers[some]) - math.log(teachers[best])
    a, b, c = np.polyfit(x, means[some], 2)
    shift = float(-b / (2 * a)) if a > 0 else 0.0  # vertex of a x² + b x + c, x = ln(T / best)
    loss = float(np.polyval([a, b, c], shift))
    return Optimum(student, teachers[best] * math.exp(shift), loss, len(teachers), None)


def _ratio(optima: list[Optimum]) -> float | None:
    return float(np.mean([o.teacher / o.student for o in optima])) if optima else None


def _run(row: Any, where: str) -> Run:
    values = []
    for name in FIELDS:
        value = row.get(name) if isinstance(row, dict) else None
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise UserError(f"{where}: {name} is {value!r}; it must be a number") from None
        if not (math.isfinite(number) and number > 0):
            raise UserError(f"{where}: {name} is {number}; it must be above 0")
        values.append(number)
    return Run(*values)
