"""Scores a model on benchmark tasks and gives one record with its size and its recovery.

Recovery is the share of the original's score that is kept. Does not run the tasks; see
`metrics.tasks.runner`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitstack.container.budget import Budget
from bitstack.live.opening import open_model
from bitstack.machine.extras import require
from bitstack.metrics.tasks.runner import run_tasks
from bitstack.metrics.tasks.scores import TaskScore, with_recovery


@dataclass(frozen=True)
class TaskEvaluation:
    """The record of `compress-model eval --tasks`."""

    model: str  # folder or Hub name, as given
    budget_bytes: int | None  # None: no budget was given
    level: int | None  # None: no level was given
    resident_bytes: int  # of the whole model
    original_bytes: int
    bits_per_weight: float  # of a decomposed weight
    original: str | None  # folder or Hub name, as given; None: no comparison
    limit: int | None  # documents of a task, None for all
    seed: int  # of the intervals
    dtype: str  # of the activations
    device: str
    tasks: list[TaskScore]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields, with the interval of every score."""
        data = {name: getattr(self, name) for name in TaskEvaluation.__dataclass_fields__}
        return data | {"tasks": [score.to_json() for score in self.tasks]}


def evaluate_tasks(
    path: str | Path,
    tasks: Sequence[str],
    folder: str | Path | None = None,
    *,
    original: str | Path | None = None,
    budget: str | int | Budget | None = None,
    level: int | None = None,
    limit: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> TaskEvaluation:
    """Scores a container or an original model on benchmark tasks.

    Args:
        path: Container or model: a folder, or a name on the Hub.
        tasks: Names of tasks or of groups of tasks.
        folder: Holds the data of the shipped tasks, or task files of the user's own.
        original: A model to compare with; its score is 100% of the recovery.
        budget: Budget of a container, for example "1.5GiB"; None loads everything.
        level: Level of every stack, instead of a budget.
        limit: Use only the first documents of each task; None uses all.
        device: "auto", "cpu" or "cuda".
        seed: Seed of the random draws behind the confidence intervals.
        progress: Show progress bars.

    Raises:
        UserError: as in `open_model` and `run_tasks`.
    """
    options: dict[str, Any] = {"limit": limit, "seed": seed, "progress": progress}
    require("lm_eval")  # said before a model is loaded
    opened = open_model(path, budget=budget, level=level, device=device)
    scores = run_tasks(opened, tasks, folder, **options)
    if original is not None:
        reference = run_tasks(open_model(original, device=device), tasks, folder, **options)
        scores = with_recovery(scores, reference, seed=seed)
    return TaskEvaluation(
        model=str(path),
        budget_bytes=opened.budget_bytes,
        level=level,
        resident_bytes=opened.resident_bytes,
        original_bytes=opened.original_bytes,
        bits_per_weight=opened.bits_per_weight,
        original=None if original is None else str(original),
        limit=limit,
        seed=seed,
        dtype=str(opened.model.dtype).removeprefix("torch."),
        device=opened.model.device.type,
        tasks=scores,
    )
