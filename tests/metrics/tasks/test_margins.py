"""Margins are those of the choices, and are left out where they do not decide the score."""

import copy
from pathlib import Path
from typing import Any

import pytest

from bitstack.live.opening import Opened
from bitstack.metrics.tasks.margins import read_margins
from bitstack.metrics.tasks.runner import run_tasks


def sample(logs: list[float], right: object, choices: list[str], **scores: float) -> dict[str, Any]:
    """lm-eval's record of one question with choices."""
    arguments = [("Q:", f" {choice}") for choice in choices]
    return {
        "target": right, "arguments": arguments, "filtered_resps": [(x, False) for x in logs],
    } | scores  # fmt: skip


def test_by_hand() -> None:
    one = sample([-4.0, -3.0, -9.0], 0, ["abcd", "a", "abc"], acc=0.0, acc_norm=1.0)
    assert read_margins([one], "acc") == (-1.0,)
    assert read_margins([one], "acc_norm") == pytest.approx([-4 / 4 + 3 / 1])


def test_a_tie_agrees_with_both() -> None:
    ties = [sample([-1.0, -1.0], right, ["a", "b"], acc=1.0 - right) for right in (0, 1)]
    assert read_margins(ties, "acc") == (0.0, 0.0)


def test_no_margins_where_they_do_not_decide() -> None:
    good = sample([-1.0, -2.0], 0, ["a", "b"], acc=1.0)
    assert read_margins([good], "f1") == ()
    for key, value in (
        ("acc", 0.0), ("target", "a"), ("target", [0, 1]), ("target", 2),
        ("filtered_resps", [(-1.0, True)]), ("filtered_resps", ["text", "text"]),
        ("filtered_resps", [(float("nan"), True), (-1.0, True)]),
    ):  # fmt: skip
        assert read_margins([good, good | {key: value}], "acc") == (), key
    without = copy.copy(good)
    del without["target"]
    assert read_margins([without], "acc") == ()


def test_of_real_runs(opened: Opened, data: Path) -> None:
    scores = run_tasks(opened, ["blimp", "hellaswag", "piqa", "arc_easy", "lambada"], data)
    for score in scores:
        with_choices = score.task != "lambada"
        assert len(score.margins) == (score.documents if with_choices else 0)
        if with_choices:
            assert [float(m > 0) for m in score.margins] == list(score.values)
        assert "margins" not in score.to_json()
