"""A slope that is known comes back from runs; edges are bounds, no optima."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from bitstack.errors import UserError
from bitstack.metrics.gap.fit import Run, fit_gap, read_runs

STUDENTS = (1e8, 2e8, 4e8, 8e8)
TEACHERS = tuple(1e8 * 2**k for k in range(7))


def runs(slope: float = 2.5, students: tuple[float, ...] = STUDENTS) -> list[Run]:
    """Losses with their minimum, a parabola in ln T, at slope · S."""
    return [
        Run(s, t, 2 + 0.05 * math.log(t / (slope * s)) ** 2)
        for s in students
        for t in TEACHERS
        if t >= s
    ]


def test_the_slope_comes_back_between_the_teachers_tried() -> None:
    line = fit_gap(runs())
    assert line.slope == pytest.approx(2.5, rel=1e-9)
    assert line.intercept == pytest.approx(0, abs=1)
    assert line.ratio == pytest.approx(2.5)
    assert [o.edge for o in line.optima] == [None] * 4
    assert line.r_squared == pytest.approx(1)


def test_intervals_hold_the_slope_of_noisy_runs() -> None:
    rng, hits = np.random.default_rng(0), []
    for _ in range(60):
        noisy = [Run(r.student, r.teacher, r.loss + 0.002 * rng.standard_normal()) for r in runs()]
        interval = fit_gap(noisy).slope_interval
        assert interval is not None
        hits.append(interval.low <= 2.5 <= interval.high)
    assert np.mean(hits) >= 0.85


def test_repeated_runs_are_averaged_in_any_order() -> None:
    both = [Run(r.student, r.teacher, r.loss + d) for r in runs() for d in (-0.1, 0.1)]
    random.Random(0).shuffle(both)
    assert fit_gap(both).slope == pytest.approx(2.5)


def test_an_edge_is_no_optimum() -> None:
    line = fit_gap(runs(slope=1.0))
    assert [o.edge for o in line.optima] == ["smallest"] * 4
    assert (line.slope, line.ratio) == (None, None)
    assert line.reason is not None
    assert "0 of 4 student sizes" in line.reason
    assert {o.edge for o in fit_gap(runs(slope=1e4)).optima} == {"largest"}


def test_two_optima_have_a_line_without_interval() -> None:
    line = fit_gap(runs(students=STUDENTS[:2]))
    assert line.slope == pytest.approx(2.5)
    assert (line.slope_interval, line.intercept_interval, line.r_squared) == (None, None, None)


def test_one_teacher_each_is_no_comparison() -> None:
    with pytest.raises(UserError, match="no student has two teachers"):
        fit_gap([Run(1e6, 2e6, 3.0), Run(2e6, 4e6, 3.0)])


def test_tables_are_read(tmp_path: Path) -> None:
    csv, js = tmp_path / "runs.csv", tmp_path / "runs.json"
    csv.write_text("student,teacher,loss\n1e6,2e6,3.5\n")
    js.write_text(json.dumps({"runs": [{"student": 1e6, "teacher": 2e6, "loss": 3.5}]}))
    assert read_runs(csv) == read_runs(js) == [Run(1e6, 2e6, 3.5)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "student,teacher,loss\n1,2,3\n1,x,3\n", "row 2: teacher is 'x'"),
        ("a.csv", "student,teacher\n1,2\n", "row 1: loss is None"),
        ("a.csv", "", "no rows"),
        ("a.json", "[1]", "row 1: student is None"),
        ("a.json", '[{"student": 1, "teacher": 2, "loss": NaN}]', "loss is nan"),
        ("a.json", "{", "cannot be read"),
    ],
)
def test_broken_tables(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_runs(path)
