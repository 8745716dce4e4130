"""Task scores of a container, measured at some budgets and predicted at others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from choices import write_piqa

from bitstack.errors import UserError
from bitstack.metrics.gap.measured import measure_gap
from bitstack.metrics.gap.predicted_scores import predict_scores
from bitstack.metrics.tasks.evaluation import evaluate_tasks

NAME = "llama-gqa"


def test_measured_where_asked_and_predicted_elsewhere(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    folder, original, data = stacked(NAME), pico_model(NAME), write_piqa(tmp_path)
    scores = predict_scores(
        folder, ["piqa"], data, str(text_file), original=original, budgets=["3bpw"],
        measured=["floor", "4bpw"],
    )  # fmt: skip
    assert [size.budget for size, _ in scores.sizes] == ["original", "4bpw", "3bpw", "floor"]
    rows = {size.budget: {one.metric: one for one in row} for size, row in scores.sizes}
    for budget in ("floor", "4bpw"):
        own = evaluate_tasks(folder, ["piqa"], data, budget=budget).tasks
        assert {one.metric: one.value for one in own} == {
            metric: one.value for metric, one in rows[budget].items()
        }
    assert {one.measured for one in rows["3bpw"].values()} == {False}
    floor = next(size for size, _ in scores.sizes if size.budget == "floor")
    gap = measure_gap(str(original), str(folder), str(text_file), budget="floor")
    assert floor.kl == pytest.approx(gap.gap.whole.kl)
    assert scores.questions == {"piqa": 24}
    record = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert [row["scores"][0]["measured"] for row in record["sizes"]] == [True, True, False, True]
    assert "margins" not in json.dumps(record)


def test_refused(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    folder, original = stacked(NAME), pico_model(NAME)
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "the boats go home"}\n' * 3)
    for message, model, tasks, budgets in [
        ("not a container", original, ["lambada"], ["3bpw"]),
        ("at least one budget", folder, ["lambada"], []),
        ("none has questions with choices", folder, ["lambada"], ["3bpw"]),
    ]:
        with pytest.raises(UserError, match=message):
            predict_scores(
                model, tasks, tmp_path, str(text_file), original=original, budgets=budgets
            )
