"""Recovery, means and intervals of scores.

Also covers `metrics.tasks.evaluation`.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.metrics.statistics.bootstrap import Interval, Z, mean_interval
from bitstack.metrics.tasks.evaluation import evaluate_tasks
from bitstack.metrics.tasks.runner import run_tasks
from bitstack.metrics.tasks.scores import mean_accuracy, read_scores, with_recovery


def results(task: str, metric: str, value: float, error: object, values: list[float]) -> dict:
    """What lm-eval gives for one metric of one task."""
    return {
        "results": {task: {"alias": task, f"{metric},none": value, f"{metric}_stderr,none": error}},
        "samples": {
            task: [{"doc_id": i, "filter": "none", metric: value} for i, value in enumerate(values)]
        },
        "higher_is_better": {task: {metric: metric != "perplexity"}},
        "n-samples": {task: {"effective": len(values)}},
        "n-shot": {task: 3},
        "versions": {task: 1.0},
    }


def test_a_score_has_the_interval_of_its_kind() -> None:
    (mean,) = read_scores(results("a", "acc", 0.75, 0.2, [1, 1, 0, 1]), seed=0)
    assert (mean.metric, mean.documents, mean.fewshot) == ("acc", 4, 3)
    assert mean.interval == mean_interval([1, 1, 0, 1])
    logs = [-1.0, -2.0, -3.0]
    (perplexity,) = read_scores(results("a", "perplexity", math.exp(2), 1.0, logs), seed=0)
    assert perplexity.interval is not None
    assert perplexity.interval.low < math.exp(2) < perplexity.interval.high
    assert perplexity.values == ()
    (group,) = read_scores(results("a", "acc", 0.5, 0.1, []), seed=0)
    assert group.interval == Interval(0.5 - 0.1 * Z, 0.5 + 0.1 * Z)
    (bare,) = read_scores(results("a", "acc", 0.5, "N/A", []), seed=0)
    assert (bare.standard_error, bare.interval) == (None, None)
    (other,) = read_scores(results("a", "f1", 0.3, 0.1, [1, 0]), seed=0)  # no mean of its values
    assert other.interval is None


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="a: acc is nan, no number"):
        list(read_scores(results("a", "acc", math.nan, None, []), seed=0))


def test_a_score_of_zero_has_no_recovery() -> None:
    (zero,) = read_scores(results("a", "acc", 0.0, 0.0, [0, 0]), seed=0)
    (half,) = read_scores(results("a", "acc", 0.5, 0.5, [1, 0]), seed=0)
    (kept,) = with_recovery([half], [zero])
    assert (kept.original, kept.recovery, kept.recovery_interval) == (0.0, None, None)
    (lost,) = with_recovery([zero], [half])
    assert lost.recovery == 0


def test_recovery_of_a_container(
    opened: Opened, stacked: Callable[..., Path], pico_model: Callable[..., Path], data: Path
) -> None:
    folder = stacked("llama-gqa")
    evaluation = evaluate_tasks(
        folder, ["blimp", "lambada"], data, original=pico_model("llama-gqa"), budget="100%"
    )
    blimp, perplexity, _ = evaluation.tasks
    alone = run_tasks(opened, ["blimp"], data)[0]
    assert blimp.original == alone.value
    assert blimp.recovery == pytest.approx(blimp.value / alone.value)
    assert blimp.recovery_interval is not None
    assert blimp.recovery_interval.low <= blimp.recovery <= blimp.recovery_interval.high
    assert perplexity.original is not None
    assert perplexity.recovery is None
    record = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert record["resident_bytes"] < record["original_bytes"]
    assert "values" not in record["tasks"][0]


def test_an_original_recovers_all(opened: Opened, data: Path) -> None:
    scores = run_tasks(opened, ["blimp"], data)
    (same,) = with_recovery(scores, scores)
    assert same.recovery == 1
    assert same.recovery_interval is not None
    assert same.recovery_interval.low == same.recovery_interval.high == 1


def test_the_mean_of_accuracies(opened: Opened, data: Path) -> None:
    scores = run_tasks(opened, ["blimp", "lambada"], data)
    values = [score for score in scores if score.metric == "acc"]
    mean, error = mean_accuracy(scores)
    assert mean == pytest.approx(sum(one.value for one in values) / 2)
    assert error == pytest.approx(math.hypot(*(one.standard_error or 0 for one in values)) / 2)
    with pytest.raises(UserError, match="a has no metric acc"):
        mean_accuracy(list(read_scores(results("a", "f1", 0.5, 0.1, []), seed=0)))
