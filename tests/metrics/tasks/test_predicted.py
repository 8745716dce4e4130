"""Scores of several sizes: measured ones stay as they are, the others are predicted."""

import numpy as np
import pytest

from bitstack.metrics.statistics.bootstrap import Interval
from bitstack.metrics.tasks.predicted import Size, fill_in
from bitstack.metrics.tasks.prediction import Answered, predict_score
from bitstack.metrics.tasks.scores import TaskScore


def score(metric: str, margins: list[float]) -> TaskScore:
    value = sum(m > 0 for m in margins) / max(1, len(margins))
    return TaskScore(
        "t", metric, value, None, Interval(0, 1), True, len(margins), 0, "", margins=tuple(margins)
    )


def test_scores_are_filled_in_by_metric() -> None:
    rng = np.random.default_rng(0)
    whole = {name: rng.normal(1, 2, 100) for name in ("acc", "acc_norm")}
    small = {name: m - 0.5 + rng.normal(0, 2, 100) for name, m in whole.items()}
    rows = [
        (*(score(name, m.tolist()) for name, m in margins.items()), score("f1", []))
        for margins in (small, whole)
    ]
    sizes = [
        Size("floor", 10, 10, 1.0, rows[0]), Size("3bpw", 30, 29, 0.2),
        Size("original", None, 90, 0.0, rows[1]), Size("1%", 9, 9, 2.0),
    ]  # fmt: skip
    filled = fill_in(sizes, seed=3)
    assert [size.budget for size, _ in filled] == ["original", "3bpw", "floor", "1%"]
    assert all([one.metric for one in row] == ["acc", "acc_norm"] for _, row in filled)
    assert [row[0].measured for _, row in filled] == [True, False, True, False]
    assert [row[0].extrapolated for _, row in filled] == [False, False, False, True]
    for i, name in enumerate(whole):
        known = [Answered(0.0, whole[name]), Answered(1.0, small[name])]
        guess = predict_score(known, 0.2, seed=3)
        _, row = filled[1]
        assert (row[i].value, row[i].interval) == (guess.value, guess.interval)
        assert row[i].recovery == pytest.approx(guess.value / rows[1][i].value)
        assert filled[2][1][i].value == rows[0][i].value


def test_an_original_that_knows_nothing_has_no_recovery() -> None:
    wrong = (score("acc", [-1.0] * 5),)
    sizes = [Size("original", None, 9, 0.0, wrong), Size("floor", 1, 1, 1.0, wrong)]
    ((_, (one,)), _) = fill_in(sizes)
    assert one.recovery is None
