"""Benchmark scores by the LM Evaluation Harness, in this process, of any loaded model.

Tasks are lm-eval's YAML files: those shipped (`bitstack.recipes.tasks`) and any in the user's own
folder. Scores come with standard errors and bootstrap intervals over documents, and as a share of
the original's score on the same documents. Opening models is left to the callers.
"""

import contextlib
import io
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitstack import recipes
from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.metrics.loss.conditional_loss import Pair
from bitstack.metrics.statistics.bootstrap import Interval, Z, bootstrap, mean_interval
from bitstack.metrics.statistics.least_squares import monotone

RESAMPLES = 1000  # for standard errors of metrics that are no means
FEWSHOT_SEED = 1234  # lm-eval's own


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task.

    `recovery` is the share of the original's score that is kept; None without an original, and
    where a lower score is the better one. Its interval is paired: the same documents for both.
    """

    task: str
    metric: str
    value: float
    standard_error: float | None
    interval: Interval | None
    higher_is_better: bool
    documents: int
    fewshot: int
    version: str
    original: float | None = None
    original_error: float | None = None
    recovery: float | None = None
    recovery_interval: Interval | None = None
    values: tuple[float, ...] = field(default=(), repr=False)  # of each document, if a mean

    def to_json(self) -> dict[str, Any]:
        """All but the values of single documents."""
        data = {k: getattr(self, k) for k in TaskScore.__dataclass_fields__ if k != "values"}
        for name in ("interval", "recovery_interval"):
            data[name] = data[name] and vars(data[name])
        return data


def run_tasks(
    opened: Opened,
    tasks: Sequence[str],
    folder: str | Path | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[TaskScore]:
    """Scores of `tasks` (names of tasks or groups), on their first `limit` documents.

    `folder` holds the benchmarks' data, or task files of the user's own. Raises UserError for a
    task that is unknown or cannot be loaded, and a limit below 1.
    """
    from lm_eval.evaluator import evaluate

    from bitstack.metrics.tasks.harness import LoadedModel

    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1, or left out for all documents")
    with _quiet(progress):
        loaded = _load(tasks, folder)
        found = evaluate(
            lm=LoadedModel(opened), task_dict=loaded, limit=limit, bootstrap_iters=RESAMPLES
        )
    assert found is not None
    return list(_scores(found, seed))


def with_recovery(
    scores: Sequence[TaskScore], originals: Sequence[TaskScore], *, seed: int = 0
) -> list[TaskScore]:
    """`scores` with those of the original beside them."""
    known = {(one.task, one.metric): one for one in originals}
    return [_recovered(one, known[one.task, one.metric], seed) for one in scores]


def mean_accuracy(scores: Sequence[TaskScore]) -> tuple[float, float]:
    """(mean over tasks of the metric `acc`, its standard error).

    Raises UserError if a task has none.
    """
    found = {one.task: one for one in scores if one.metric == "acc"}
    without = {one.task for one in scores} - set(found)
    if without or not found:
        raise UserError(f"--tasks: {', '.join(sorted(without))} has no metric acc to be a score")
    errors = [one.standard_error or 0.0 for one in found.values()]
    mean = sum(one.value for one in found.values()) / len(found)
    return mean, math.hypot(*errors) / len(found)


def task_pairs(
    tasks: Sequence[str], folder: str | Path | None = None, *, limit: int | None = None
) -> list[Pair]:
    """Every document of `tasks` as an instruction with its right answer, for a conditional loss.

    Raises UserError as `run_tasks`.
    """
    with _quiet(progress=False):
        loaded = _load(tasks, folder)
        return [
            pair
            for task in loaded["tasks"].values()
            for _, document in task.doc_iterator(limit=limit, rank=0, world_size=1)
            for pair in [_pair(task, document)]
        ]


def _load(tasks: Sequence[str], folder: str | Path | None) -> Any:
    """lm-eval's tasks, ready to be evaluated."""
    from lm_eval.tasks import TaskManager

    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"--tasks-folder {folder}: no such folder")
    paths: list[str | Path] = [recipes.tasks(), *([] if folder is None else [folder])]
    metadata: Any = {} if folder is None else {"data": str(folder)}
    try:
        manager = TaskManager(include_path=paths, include_defaults=False, metadata=metadata)
        unknown = [name for name in tasks if name not in manager.all_tasks]
        if unknown or not tasks:
            raise UserError(
                f"--tasks: {', '.join(unknown) or 'none named'}; known are "
                f"{', '.join(manager.all_tasks)}, and those of task files in --tasks-folder"
            )
        loaded = manager.load(list(tasks))
    except UserError:
        raise
    except Exception as error:  # task files run code of their own: anything can go wrong
        reason = " ".join(str(error).split())[:300]
        if folder is None and "'data'" in reason:
            reason = "its data is not shipped; name the folder of it with --tasks-folder"
        raise UserError(
            f"--tasks {','.join(tasks)}: cannot be loaded ({type(error).__name__}: {reason})"
        ) from None
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def _scores(found: Any, seed: int) -> Iterator[TaskScore]:
    """One score for every task and metric of lm-eval's answer."""
    samples = found.get("samples", {})
    for task, figures in (found["results"] | found.get("groups", {})).items():
        better = found["higher_is_better"].get(task, {})
        for key, value in figures.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = figures.get(f"{metric}_stderr,{filtered}")
            error = float(error) if isinstance(error, (int, float)) else None
            values = _values(samples.get(task, []), metric, filtered)
            interval = _interval(values, float(value), error, seed)
            yield TaskScore(
                task=task,
                metric=metric if filtered == "none" else f"{metric},{filtered}",
                value=_finite(float(value), task, metric),
                standard_error=error,
                interval=interval,
                higher_is_better=better.get(metric) is not False,
                documents=int(found["n-samples"].get(task, {}).get("effective", 0)),
                fewshot=int(found["n-shot"].get(task, 0)),
                version=str(found["versions"].get(task, "")),
                values=tuple(values) if _is_mean(values, float(value)) else (),
            )


def _values(samples: Any, metric: str, filtered: str) -> list[float]:
    """The metric of every document, in order; none for a group."""
    chosen = sorted((s for s in samples if s["filter"] == filtered), key=lambda s: s["doc_id"])
    values = [s[metric] for s in chosen]
    numbers = all(isinstance(value, (int, float, np.number)) for value in values)
    return [float(value) for value in values] if numbers else []


def _interval(values: list[float], value: float, error: float | None, seed: int) -> Interval | None:
    """By the bootstrap over documents where the metric is their mean, or a perplexity,
    exp(-mean); by the standard error for a group; None for what is neither."""
    if _is_mean(values, value):
        return mean_interval(values, seed=seed)
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


def _pair(task: Any, document: Any) -> Pair:
    """The prompt and the right answer, parted by the task's delimiter where no space does it."""
    answer = task.doc_to_target(document)
    if isinstance(answer, list):
        answer = answer[0]
    if isinstance(answer, int) and task.config.doc_to_choice is not None:
        answer = task.doc_to_choice(document)[answer]
    between = "" if str(answer)[:1].isspace() else task.config.target_delimiter
    return Pair(str(task.doc_to_text(document)), f"{between}{answer}")


@contextlib.contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """lm-eval warns about what is meant, prints, and draws its bars whatever stderr is."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    shown = progress and sys.stderr.isatty()
    bars = contextlib.nullcontext() if shown else contextlib.redirect_stderr(io.StringIO())
    try:
        with bars, contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
