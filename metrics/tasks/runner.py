"""Runs benchmark tasks on a loaded model with lm-eval, in this process.

Tasks are lm-eval's YAML files: those shipped (`recipes/tasks`) and any in the user's own folder.
Does not open models, see `live.opening`, and does not compute intervals, see
`metrics.tasks.scores`.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bitstack import recipes
from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.machine.extras import require
from bitstack.metrics.loss.conditional_loss import Pair
from bitstack.metrics.tasks.scores import TaskScore, read_scores

RESAMPLES = 1000  # of lm-eval's bootstrap, for standard errors of metrics that are not means
FEWSHOT_SEED = 1234  # lm-eval's own


def run_tasks(
    opened: Opened,
    tasks: Sequence[str],
    folder: str | Path | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[TaskScore]:
    """Scores a loaded model on benchmark tasks.

    Args:
        opened: The loaded model.
        tasks: Names of tasks or of groups of tasks.
        folder: Holds the data of the shipped tasks, or task files of the user's own.
        limit: Use only the first documents of each task; None uses all.
        seed: Seed of the random draws behind the confidence intervals.
        progress: Show lm-eval's progress bars.

    Returns:
        One score for every task and metric.

    Raises:
        UserError: lm-eval is not installed, a task is unknown or cannot be loaded, `limit` is
            below 1, or a score is no number.
    """
    require("lm_eval")
    from lm_eval.evaluator import evaluate

    from bitstack.metrics.tasks.harness import LoadedModel

    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1, or left out for all documents")
    with _quiet(progress):
        loaded = _load(tasks, folder)
        results = evaluate(
            lm=LoadedModel(opened), task_dict=loaded, limit=limit, bootstrap_iters=RESAMPLES
        )
    assert results is not None
    return list(read_scores(results, seed))


def task_pairs(
    tasks: Sequence[str], folder: str | Path | None = None, *, limit: int | None = None
) -> list[Pair]:
    """Returns every document of `tasks` as an instruction with its right answer.

    The pairs are for `metrics.loss.conditional_loss`. The arguments are those of `run_tasks`.

    Raises:
        UserError: a task is unknown or cannot be loaded.
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
    """Returns lm-eval's tasks, ready to be evaluated."""
    require("lm_eval")
    from lm_eval.tasks import TaskManager

    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"--tasks-folder {folder}: no such folder")
    paths: list[str | Path] = [recipes.tasks(), *([] if folder is None else [folder])]
    metadata: Any = {} if folder is None else {"data": str(folder)}
    try:
        # Without the defaults: lm-eval would read thousands of task files of its own.
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


def _pair(task: Any, document: Any) -> Pair:
    """Returns prompt and right answer, with the task's delimiter unless a space parts them."""
    answer = task.doc_to_target(document)
    if isinstance(answer, list):
        answer = answer[0]
    if isinstance(answer, int) and task.config.doc_to_choice is not None:
        answer = task.doc_to_choice(document)[answer]
    between = "" if str(answer)[:1].isspace() else task.config.target_delimiter
    return Pair(str(task.doc_to_text(document)), f"{between}{answer}")


@contextlib.contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Silences lm-eval, which warns of intended settings, prints, and draws bars into files."""
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
