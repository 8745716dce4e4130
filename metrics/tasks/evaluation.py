"""Benchmark scores of a model with its size beside it, and how much of the original's it keeps.

How tasks are run is the business of `bitstack.metrics.tasks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitstack.container.budget import Budget
from bitstack.live.opening import open_model
from bitstack.metrics.tasks.scores import TaskScore, run_tasks, with_recovery


@dataclass(frozen=True)
class TaskEvaluation:
    """What `compress-model eval --tasks` writes."""

    model: str  # as named
    budget_bytes: int | None  # None: none was asked for
    level: int | None  # None: none was asked for
    resident_bytes: int
    original_bytes: int
    bits_per_weight: float
    original: str | None  # as named
    limit: int | None  # documents of a task, None for all
    seed: int  # of the intervals
    dtype: str  # of the activations
    device: str
    tasks: list[TaskScore]

    def to_json(self) -> dict[str, Any]:
        """All fields, a score with its interval."""
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
    """Scores of a container or model on `tasks`, beside those of the model folder `original`.

    `folder` holds the data of the shipped tasks, or task files of one's own. UserError for what
    `open_model` and `run_tasks` refuse.
    """
    options: dict[str, Any] = {"limit": limit, "seed": seed, "progress": progress}
    opened = open_model(path, budget=budget, level=level, device=device)
    scores = run_tasks(opened, tasks, folder, **options)
    if original is not None:
        first = run_tasks(open_model(original, device=device), tasks, folder, **options)
        scores = with_recovery(scores, first, seed=seed)
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
