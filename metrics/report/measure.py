"""Measuring the models of a report: loss and speed on a text, scores on tasks, or both.

With the code that the commands run. One model is in memory at a time.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bitstack.kernels import which
from bitstack.live.opening import Opened, open_model
from bitstack.machine.device import pick_device
from bitstack.metrics.capacity.decode_speed import seconds_per_token
from bitstack.metrics.loss.evaluation import score
from bitstack.metrics.report.data import Measured, Tasks
from bitstack.metrics.tasks.scores import TaskScore, run_tasks
from bitstack.original.text import token_ids

SPEED_TOKENS = 32
Model = tuple[str, str | Path, int | None]  # name, folder, bytes of its budget


@dataclass(frozen=True)
class Terms:
    """What every model is measured on; without `text` and `tasks` on nothing."""

    text: str | None
    tasks: Tasks | None
    max_tokens: int | None
    window: int | None
    stride: int | None
    device: str
    progress: bool


def measure_all(models: Sequence[Model], terms: Terms) -> list[Measured]:
    """One record a model, in order. UserError for what the functions below refuse."""
    bar = tqdm(models, desc="report", disable=None if terms.progress else True)
    found = []
    for name, path, size in bar:
        bar.set_postfix_str(name)
        found.append(_measure(path, size, terms))
    return found


def _measure(path: str | Path, budget: int | None, terms: Terms) -> Measured:
    """A text or task that cannot be read is refused before anything of the model is measured."""
    opened = open_model(path, budget=budget, device=terms.device)
    if terms.text is None:
        return Measured(tasks=_task_scores(opened, terms))
    tokens = token_ids(terms.text, opened.tokenizer, max_tokens=terms.max_tokens)
    tasks = _task_scores(opened, terms)
    scored = score(
        opened, tokens, model=Path(path).name, text=terms.text, window=terms.window,
        stride=terms.stride,
    )  # fmt: skip
    speed = 1 / seconds_per_token(opened.model, tokens=SPEED_TOKENS)
    return Measured(scored=scored, tokens_per_second=speed, tasks=tasks)


def _task_scores(opened: Opened, terms: Terms) -> tuple[TaskScore, ...]:
    tasks = terms.tasks
    if tasks is None:
        return ()
    return tuple(
        run_tasks(
            opened, tasks.names, tasks.folder, limit=tasks.limit, seed=tasks.seed,
            progress=terms.progress,
        )
    )  # fmt: skip


def environment(terms: Terms) -> dict[str, Any]:
    """What ran, on what, and when."""
    where = pick_device(terms.device)
    packages = ["bitstack", "torch", "transformers"] + ["lm_eval"] * (terms.tasks is not None)
    speed = {} if terms.text is None else {"speed_tokens": SPEED_TOKENS}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if where == "cuda" else platform.machine(),
        "kernel": which(where).name,
        "threads": torch.get_num_threads(),
        **speed,
        **{name: version(name) for name in packages},
    }
