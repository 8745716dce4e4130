"""Both laws against the values computed from the papers."""

import dataclasses
import json
import math

import numpy as np
import pytest

from bitstack.errors import UserError
from bitstack.metrics.gap.law import best_teacher, student_loss, supervised_loss


def test_losses_of_the_distillation_law() -> None:
    assert supervised_loss(1e9, 2e10) == pytest.approx(2.3747, abs=5e-5)
    assert supervised_loss(7e9, 1.4e11) == pytest.approx(2.0188, abs=5e-5)
    teacher = supervised_loss(7.75e9, 1.55e11)
    assert student_loss(1e9, 2e10, teacher) == pytest.approx(2.2773, abs=5e-5)


def test_the_teacher_of_a_pruned_3b_student() -> None:
    best = best_teacher(3e9)
    assert best.teacher == pytest.approx(7482.502e6)  # 2.498 · 3000 − 11.498 million
    assert best.ratio == pytest.approx(2.5, abs=0.01)
    assert best.interval is not None
    assert best.interval.low < 7e9 < best.interval.high  # LLaMA2-7B, whom MiniMA-3B came from
    assert best.extrapolated


@pytest.mark.parametrize("student", [143e6, 546e6, 1e9, 3e9])
@pytest.mark.parametrize("tokens", [2.5e11, 5.12e11])
def test_the_teacher_of_a_student_from_scratch(student: float, tokens: float) -> None:
    best = best_teacher(student, tokens=tokens, law="scratch")
    assert 8 <= best.ratio <= 15
    assert best.student_loss is not None
    for size in np.geomspace(student / 10, student * 1000, 300):
        other = student_loss(student, tokens, supervised_loss(size, 20 * size))
        assert best.student_loss <= other + 1e-9
        if other <= best.student_loss * 1.0009:
            assert best.interval is not None
            assert best.interval.low <= size * 1.05
            assert size <= best.interval.high * 1.05


def test_each_law_names_its_scope() -> None:
    pruned, scratch = best_teacher(1e8), best_teacher(1e9, tokens=2.5e11, law="scratch")
    assert "pruned from the teacher" in pruned.scope
    assert "from random weights" in scratch.scope
    assert not pruned.extrapolated
    assert scratch.interval is not None
    assert scratch.interval.level is None  # a range of good teachers, no confidence interval
    json.dumps([dataclasses.asdict(x) for x in (pruned, scratch)], allow_nan=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": 5e6}, "not defined up to 7.68e\\+06"),
        ({"student": 0}, "must be above 0"),
        ({"student": math.nan}, "must be above 0"),
        ({"student": 1e9, "law": "scratch"}, "give --training-tokens"),
        ({"student": 1e9, "law": "scratch", "tokens": -1}, "tokens is -1"),
        ({"student": 1e9, "law": "other"}, "neither 'pruned' nor 'scratch'"),
    ],
)
def test_where_a_law_is_not_defined(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        best_teacher(**options)
