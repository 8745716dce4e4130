"""Measures the models of a report: loss, speed and metrics on a text, scores on tasks, or both.

Uses the code of the commands. One model at a time is in memory, and with the metrics the original
beside it. One bar counts all steps of all models. Does not choose the budgets; see
`metrics.report.figures`.
"""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bitstack.kernels import which
from bitstack.live.opening import Opened, open_model
from bitstack.machine.device import pick_device
from bitstack.machine.progress import Bar, bar
from bitstack.metrics.capacity.decode_speed import seconds_per_token
from bitstack.metrics.loss.evaluation import Evaluation, score
from bitstack.metrics.report.along_curve import (
    ORIGINAL,
    STEPS,
    CurvePoint,
    Metrics,
    MetricsCurve,
    first_texts,
)
from bitstack.metrics.report.data import Measured, Tasks
from bitstack.metrics.tasks.runner import run_tasks
from bitstack.metrics.tasks.scores import TaskScore
from bitstack.original.text import Tokens, token_ids

SPEED_TOKENS = 32  # decoded one by one for the speed
Model = tuple[str, str | Path, int | None]  # name, folder, bytes of its budget


@dataclass(frozen=True)
class Settings:
    """What every model is measured on, and how."""

    text: str | None  # None: no loss, no speed, no metrics
    tasks: Tasks | None  # None: no scores
    metrics: bool  # whether the three metrics are measured on the text
    max_tokens: int | None  # of the text, for all that reads it
    window: int | None  # tokens
    stride: int | None  # tokens
    device: str
    progress: bool

    def steps(self, name: str) -> int:
        """How many steps the model of this name takes."""
        on_text = 0 if self.text is None else 2 + len(STEPS) * self.metrics
        return on_text + (self.tasks is not None and self.tasks.run_at(name))


@dataclass
class Measuring:
    """One run over all models. After it, `points` has their metrics."""

    settings: Settings
    models: Sequence[Model]
    points: list[CurvePoint] = field(default_factory=list)
    _tokens: Tokens | None = None  # encoded once: the original has the same tokenizer
    _teacher: Opened | None = None

    def run(self) -> list[Measured]:
        """Measures every model, in order.

        Raises:
            UserError: a model, the text or a task cannot be used.
        """
        with self._bar:
            return [self._measure(*model) for model in self.models]

    def curve(self) -> MetricsCurve | None:
        """Returns the metrics of all models; None where they were not measured."""
        if not self.points:
            return None
        return self._metrics.curve(str(self.settings.text), self.points)

    @cached_property
    def _bar(self) -> Bar:
        total = sum(self.settings.steps(name) for name, _, _ in self.models)
        return bar(desc="report", show=self.settings.progress, total=total, unit="step")

    @contextmanager
    def _step(self, model: str, words: str) -> Iterator[None]:
        self._bar.set_postfix_str(f"{model}: {words}")
        yield
        self._bar.update()

    @cached_property
    def _metrics(self) -> Metrics:
        """The metrics read what the loss reads: as many bytes from the start of the text."""
        assert self.settings.text is not None
        assert self._tokens is not None
        most = None if self.settings.max_tokens is None else self._tokens.bytes
        return Metrics(first_texts(self.settings.text, most))

    def _measure(self, name: str, path: str | Path, budget: int | None) -> Measured:
        """Measures one model. A text or task that cannot be read is refused before any of it."""
        settings = self.settings
        opened = open_model(path, budget=budget, device=settings.device)
        if settings.text is not None and self._tokens is None:
            self._tokens = token_ids(
                settings.text, opened.tokenizer, max_tokens=settings.max_tokens
            )
        tasks = self._task_scores(name, opened)
        if settings.text is None:
            return Measured(tasks=tasks)
        with self._step(name, "loss"):
            scored = self._loss(path, opened)
        with self._step(name, "speed"):
            speed = 1 / seconds_per_token(opened.model, tokens=SPEED_TOKENS)
        if settings.metrics:
            self._add_point(name, opened)
        return Measured(scored=scored, tokens_per_second=speed, tasks=tasks)

    def _loss(self, path: str | Path, opened: Opened) -> Evaluation:
        assert self._tokens is not None
        return score(
            opened, self._tokens, model=Path(path).name, text=str(self.settings.text),
            window=self.settings.window, stride=self.settings.stride,
        )  # fmt: skip

    def _add_point(self, name: str, opened: Opened) -> None:
        if name == ORIGINAL:
            self._teacher = opened
        self.points.append(
            self._metrics.point(name, opened, self._teacher, lambda w: self._step(name, w))
        )

    def _task_scores(self, name: str, opened: Opened) -> tuple[TaskScore, ...]:
        tasks = self.settings.tasks
        if tasks is None or not tasks.run_at(name):
            return ()
        with self._step(name, "tasks"):
            return tuple(
                run_tasks(opened, tasks.names, tasks.folder, limit=tasks.limit, seed=tasks.seed)
            )


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
