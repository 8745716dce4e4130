"""The line from student size to best teacher, fitted on one's own distillation runs.

For every student size the best teacher is read off its runs: the vertex of a parabola in ln T
through the best one and its neighbours. A best teacher at the edge of those tried is no optimum,
only a bound; it is listed and left out of the line (as arXiv 2311.07052 fits its law). Running the
distillations is left to others.
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
from scipy import stats

from bitstack.errors import UserError
from bitstack.metrics.statistics.bootstrap import LEVEL, Interval

FIELDS = ("student", "teacher", "loss")


@dataclass(frozen=True)
class Run:
    """One distilled student: both sizes in parameters, its held-out loss in nats."""

    student: float
    teacher: float
    loss: float


@dataclass(frozen=True)
class Optimum:
    """The best teacher of one student size. `edge` is "smallest" or "largest" where the best
    teacher was the first or last tried: then the optimum may lie beyond it."""

    student: float
    teacher: float
    loss: float
    teachers_tried: int
    edge: str | None


@dataclass(frozen=True)
class GapLine:
    """`T* = slope·S + intercept` over the interior optima; None, with `reason`, below two of them.
    Intervals need three. `ratio` is the mean of T*/S over them."""

    slope: float | None
    slope_interval: Interval | None
    intercept: float | None
    intercept_interval: Interval | None
    r_squared: float | None
    ratio: float | None
    optima: tuple[Optimum, ...]
    reason: str | None


def read_runs(path: str | Path) -> list[Run]:
    """Runs from a CSV file with a header or a JSON list, with fields student, teacher, loss.

    Raises UserError naming the row and the field that cannot be used.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
        rows: Any = (
            list(csv.DictReader(text.splitlines()))
            if Path(path).suffix == ".csv"
            else json.loads(text)
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a CSV or a JSON list") from None
    if isinstance(rows, dict):
        rows = rows.get("runs")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: no rows; each must have the fields {', '.join(FIELDS)}")
    return [_run(row, f"{path} row {index}") for index, row in enumerate(rows, start=1)]


def fit_gap(runs: Sequence[Run]) -> GapLine:
    """Fit the line. Runs of one student and teacher are averaged; their order does not matter.

    Raises UserError if no student has runs from two teachers or more.
    """
    tried: dict[float, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        tried[run.student][run.teacher].append(run.loss)
    optima = [best for student in sorted(tried) if (best := _optimum(student, tried[student]))]
    if not optima:
        raise UserError(f"{len(runs)} runs: no student has two teachers, so none is the best")
    inside = [best for best in optima if best.edge is None]
    if len(inside) < 2:
        reason = (
            f"{len(inside)} of {len(optima)} student sizes have a best teacher between others; "
            "a line needs at least 2"
        )
        return GapLine(None, None, None, None, None, _ratio(inside), tuple(optima), reason)
    return _line(inside, tuple(optima))


def _line(inside: list[Optimum], optima: tuple[Optimum, ...]) -> GapLine:
    line = stats.linregress([o.student for o in inside], [o.teacher for o in inside])
    freedom = len(inside) - 2
    t = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) if freedom else math.nan

    def around(centre: float, error: float) -> Interval | None:
        return Interval(centre - t * error, centre + t * error) if freedom else None

    slope, intercept = float(line.slope), float(line.intercept)
    return GapLine(
        slope=slope,
        slope_interval=around(slope, float(line.stderr)),
        intercept=intercept,
        intercept_interval=around(intercept, float(line.intercept_stderr)),
        r_squared=float(line.rvalue) ** 2 if freedom else None,
        ratio=_ratio(inside),
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
    shift = float(-b / (2 * a)) if a > 0 else 0.0
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
