"""Measures the models of a report: loss and speed on a text, scores on tasks, or both.

Uses the code of the commands, with one model in memory at a time. Does not choose the budgets; see
`metrics.report.figures`.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bitstack.kernels import which
from bitstack.live.opening import Opened, open_model
from bitstack.machine.device import pick_device
from bitstack.machine.progress import bar
from bitstack.metrics.capacity.decode_speed import seconds_per_token
from bitstack.metrics.loss.evaluation import score
from bitstack.metrics.report.data import Measured, Tasks
from bitstack.metrics.tasks.runner import run_tasks
from bitstack.metrics.tasks.scores import TaskScore
from bitstack.original.text import token_ids

SPEED_TOKENS = 32  # decoded one by one for the speed
Model = tuple[str, str | Path, int | None]  # name, folder, bytes of its budget


@dataclass(frozen=True)
class Settings:
    """What every model is measured on, and how."""

    text: str | None  # None: neither loss nor speed
    tasks: Tasks | None  # None: no scores
    max_tokens: int | None  # of the text
    window: int | None  # tokens
    stride: int | None  # tokens
    device: str
    progress: bool


def measure_all(models: Sequence[Model], settings: Settings) -> list[Measured]:
    """Measures every model, in order.

    Raises:
        UserError: a model, the text or a task cannot be used.
    """
    shown = bar(models, desc="report", show=settings.progress)
    measured = []
    for name, path, size in shown:
        shown.set_postfix_str(name)
        measured.append(_measure(path, size, settings))
    return measured


def _measure(path: str | Path, budget: int | None, settings: Settings) -> Measured:
    """Measures one model. A text or task that cannot be read is refused before any measuring."""
    opened = open_model(path, budget=budget, device=settings.device)
    if settings.text is None:
        return Measured(tasks=_task_scores(opened, settings))
    tokens = token_ids(settings.text, opened.tokenizer, max_tokens=settings.max_tokens)
    tasks = _task_scores(opened, settings)
    scored = score(
        opened, tokens, model=Path(path).name, text=settings.text, window=settings.window,
        stride=settings.stride,
    )  # fmt: skip
    speed = 1 / seconds_per_token(opened.model, tokens=SPEED_TOKENS)
    return Measured(scored=scored, tokens_per_second=speed, tasks=tasks)


def _task_scores(opened: Opened, settings: Settings) -> tuple[TaskScore, ...]:
    tasks = settings.tasks
    if tasks is None:
        return ()
    return tuple(
        run_tasks(
            opened, tasks.names, tasks.folder, limit=tasks.limit, seed=tasks.seed,
            progress=settings.progress,
        )
    )  # fmt: skip


def environment(settings: Settings) -> dict[str, Any]:
    """Returns the date, the machine and the versions of the software that measures."""
    where = pick_device(settings.device)
    packages = ["bitstack", "torch", "transformers"] + ["lm_eval"] * (settings.tasks is not None)
    speed = {} if settings.text is None else {"speed_tokens": SPEED_TOKENS}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if where == "cuda" else platform.machine(),
        "kernel": which(where).name,
        "threads": torch.get_num_threads(),
        **speed,
        **{name: version(name) for name in packages},
    }
