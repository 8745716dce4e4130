"""Reads lm-eval's results as scores with intervals, and compares them with the original model's.

Recovery is the share of the original's score that a compressed model keeps, measured on the same
documents. Does not run tasks; see `metrics.tasks.runner`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.metrics.statistics.bootstrap import Interval, Z, bootstrap, mean_interval
from bitstack.metrics.statistics.least_squares import monotone
from bitstack.metrics.tasks.margins import read_margins


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task.

    `recovery` is the share of the original's score that is kept; None without an original, and
    where a lower score is the better one. Its interval is paired: the same documents for both.
    """

    task: str
    metric: str  # "acc", "acc_norm", "perplexity" …
    value: float
    standard_error: float | None  # by lm-eval
    interval: Interval | None  # of value
    higher_is_better: bool
    documents: int
    fewshot: int  # solved examples before each question
    version: str  # of the task file
    original: float | None = None
    original_error: float | None = None
    recovery: float | None = None
    recovery_interval: Interval | None = None
    values: tuple[float, ...] = field(default=(), repr=False)  # by document, if value is their mean
    margins: tuple[float, ...] = field(default=(), repr=False)  # by document, if it has choices

    def to_json(self) -> dict[str, Any]:
        """Returns all fields but those of single documents."""
        single = ("values", "margins")
        data = {k: getattr(self, k) for k in TaskScore.__dataclass_fields__ if k not in single}
        for name in ("interval", "recovery_interval"):
            data[name] = data[name] and vars(data[name])
        return data


def read_scores(results: Any, seed: int) -> Iterator[TaskScore]:
    """Yields one score for every task and metric.

    Args:
        results: What `lm_eval.evaluator.evaluate` returns, with its samples.
        seed: Seed of the random draws behind the confidence intervals.

    Raises:
        UserError: a score is no number.
    """
    samples = results.get("samples", {})
    for task, figures in (results["results"] | results.get("groups", {})).items():
        better = results["higher_is_better"].get(task, {})
        for key, value in figures.items():
            # Keys are "metric,filter"; others are the task's alias and such.
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = figures.get(f"{metric}_stderr,{filtered}")
            error = float(error) if isinstance(error, (int, float)) else None
            chosen = _chosen(samples.get(task, []), filtered)
            values = _values(chosen, metric)
            interval = _interval(values, float(value), error, seed)
            yield TaskScore(
                task=task,
                metric=metric if filtered == "none" else f"{metric},{filtered}",
                value=_finite(float(value), task, metric),
                standard_error=error,
                interval=interval,
                higher_is_better=better.get(metric) is not False,
                documents=int(results["n-samples"].get(task, {}).get("effective", 0)),
                fewshot=int(results["n-shot"].get(task, 0)),
                version=str(results["versions"].get(task, "")),
                values=tuple(values) if _is_mean(values, float(value)) else (),
                margins=read_margins(chosen, metric),
            )


def with_recovery(
    scores: Sequence[TaskScore], originals: Sequence[TaskScore], *, seed: int = 0
) -> list[TaskScore]:
    """Returns `scores` with the original model's score and the recovery filled in.

    Args:
        scores: Scores of the compressed model.
        originals: Scores of the original model on the same tasks and documents.
        seed: Seed of the random draws behind the confidence intervals.
    """
    known = {(one.task, one.metric): one for one in originals}
    return [_recovered(one, known[one.task, one.metric], seed) for one in scores]


def mean_accuracy(scores: Sequence[TaskScore]) -> tuple[float, float]:
    """Returns the mean of the metric `acc` over tasks, and its standard error.

    Raises:
        UserError: a task has no metric `acc`.
    """
    accuracies = {one.task: one for one in scores if one.metric == "acc"}
    without = {one.task for one in scores} - set(accuracies)
    if without or not accuracies:
        raise UserError(f"--tasks: {', '.join(sorted(without))} has no metric acc to be a score")
    errors = [one.standard_error or 0.0 for one in accuracies.values()]
    mean = sum(one.value for one in accuracies.values()) / len(accuracies)
    # Errors of independent tasks add in squares.
    return mean, math.hypot(*errors) / len(accuracies)


def _chosen(samples: Any, filtered: str) -> list[dict[str, Any]]:
    """Returns the documents of one filter, in order; an empty list for a group of tasks."""
    return sorted((s for s in samples if s["filter"] == filtered), key=lambda s: s["doc_id"])


def _values(samples: list[dict[str, Any]], metric: str) -> list[float]:
    """Returns the metric of every document; an empty list where it is no number."""
    values = [s[metric] for s in samples]
    numbers = all(isinstance(value, (int, float, np.number)) for value in values)
    return [float(value) for value in values] if numbers else []


def _interval(values: list[float], value: float, error: float | None, seed: int) -> Interval | None:
    """Draws documents if the score is a mean or a perplexity; a group has its standard error."""
    if _is_mean(values, value):
        return mean_interval(values, seed=seed)
    # lm-eval's perplexity of a task is exp(−mean log-likelihood), monotone in the mean.
    if values and _same(math.exp(-float(np.mean(values))), value):
        return monotone(mean_interval(values, seed=seed), lambda x: math.exp(-x))
    if values or error is None or not math.isfinite(error):
        return None
    return Interval(value - Z * error, value + Z * error)


def _is_mean(values: list[float], value: float) -> bool:
    return bool(values) and _same(float(np.mean(values)), value)


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


def _recovered(one: TaskScore, original: TaskScore, seed: int) -> TaskScore:
    share, interval = None, None
    if one.higher_is_better and original.value > 0:
        share = one.value / original.value
        if one.values and len(one.values) == len(original.values):
            pairs = np.column_stack([one.values, original.values])
            interval = bootstrap(pairs, _ratio, seed=seed)
    return replace(
        one,
        original=original.value,
        original_error=original.standard_error,
        recovery=share,
        recovery_interval=interval,
    )


def _ratio(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(totals[..., 0] / totals[..., 1])


def _finite(value: float, task: str, metric: str) -> float:
    if not math.isfinite(value):
        raise UserError(f"{task}: {metric} is {value}, no number; the model's weights are broken")
    return value
