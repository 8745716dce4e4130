"""Measures the densities of models by name: from a score, a loss on a text, or a loss on answers.

All three give effective parameters N̂: the score as published; the loss on the kind of text that the
law's series was measured on; the loss of answers given their instructions. Does not compute the
density, see `metrics.density.capacity_density`; nor the losses, see `metrics.density.measured` and
`metrics.loss.conditional_loss`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.machine.extras import require
from bitstack.metrics.capacity.measured import opened_models
from bitstack.metrics.density.capacity_density import Density, density_of_loss
from bitstack.metrics.density.known_score import Scored, by_score, check_one_measure
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.density.law_file import named_law
from bitstack.metrics.density.measured import law_density
from bitstack.metrics.loss.conditional_loss import (
    ConditionalLoss,
    Pair,
    conditional_loss,
    read_pairs,
)
from bitstack.metrics.loss.documents import read_texts
from bitstack.metrics.statistics.bootstrap import standard_error
from bitstack.metrics.tasks.runner import run_tasks, task_pairs
from bitstack.metrics.tasks.scores import mean_accuracy

Measure = Callable[[Opened], Density]


def score_models(
    paths: Sequence[str],
    measure: Measure,
    *,
    budgets: Sequence[str] = (),
    device: str = "auto",
) -> list[Scored]:
    """Measures every model of `paths`, a container at every budget.

    Args:
        measure: One of `by_score`, `by_tasks`, `by_text` and `by_pairs`.
    """
    return [
        Scored(name, opened.budget_bytes, measure(opened))
        for name, opened in opened_models(paths, budgets, device)
    ]


def by_tasks(
    law: DensityLaw,
    tasks: Sequence[str],
    folder: str | Path | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Measure:
    """Returns the measure of density from the mean accuracy on `tasks`.

    The law must have been fitted on scores of the same tasks.

    Args:
        folder: Of the tasks' data, or of task files; as in `metrics.tasks.runner.run_tasks`.
        limit: Documents of every task; None takes all.
    """
    require("lm_eval")  # said before a model is loaded

    def measure(opened: Opened) -> Density:
        scores = run_tasks(opened, tasks, folder, limit=limit, seed=seed, progress=progress)
        score, error = mean_accuracy(scores)
        return by_score(law, score, error, seed=seed)(opened)

    return measure


def by_text(
    law: DensityLaw,
    text: str,
    *,
    max_bytes: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Measure:
    """Returns the measure of density from the loss on the text source `text`.

    The text must be of the kind that the law's series was measured on. At most `max_bytes` of it
    are read.
    """
    texts = read_texts(text, max_bytes=max_bytes)
    return lambda opened: law_density(opened, law, texts, seed=seed, progress=progress)


def by_pairs(
    law: DensityLaw, pairs: Sequence[Pair], *, seed: int = 0, progress: bool = False
) -> Measure:
    """Returns the measure of density from the mean loss of the answers, in nats per answer.

    Raises:
        UserError: the law was fitted on losses over windows of a text.
    """
    if law.protocol is not None and law.protocol.window is not None:
        raise UserError(
            f"the law was fitted on losses over {law.protocol.window}-token windows of "
            f"{law.protocol.text}, not on answers; give one fitted on losses of these pairs"
        )

    def measure(opened: Opened) -> Density:
        loss = conditional_loss(opened.model, opened.tokenizer, pairs, seed=seed, progress=progress)
        return density_of_loss(
            law,
            loss=loss.nats_per_answer,
            loss_error=standard_error(loss.interval),
            parameters=opened.parameters,
            stored_bytes=opened.resident_bytes,
            seed=seed,
        )

    return measure


@dataclass(frozen=True)
class AnswerLoss:
    """A model, its size, and the loss of answers given their instructions."""

    model: str  # folder or Hub name, as given
    budget_bytes: int | None  # None: no budget was given
    parameters: int
    resident_bytes: int  # of the whole model
    loss: ConditionalLoss

    def to_json(self) -> dict[str, Any]:
        """Returns all fields in one object, those of `loss` among them."""
        own = {name: getattr(self, name) for name in AnswerLoss.__dataclass_fields__}
        own.pop("loss")
        return own | asdict(self.loss)


def answer_losses(
    paths: Sequence[str],
    pairs: Sequence[Pair],
    *,
    budgets: Sequence[str] = (),
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> list[AnswerLoss]:
    """Measures the loss of answers of every model of `paths`, a container at every budget."""
    losses = []
    for name, opened in opened_models(paths, budgets, device):
        loss = conditional_loss(opened.model, opened.tokenizer, pairs, seed=seed, progress=progress)
        losses.append(
            AnswerLoss(name, opened.budget_bytes, opened.parameters, opened.resident_bytes, loss)
        )
    return losses


def answers(
    pairs: str | Path | None,
    tasks: Sequence[str] | None,
    tasks_folder: str | Path | None,
    limit: int | None = None,
) -> list[Pair]:
    """Reads pairs of instruction and answer from a JSONL file or from lm-eval tasks.

    Raises:
        UserError: both or neither of `pairs` and `tasks` are given.
    """
    if (pairs is None) == (tasks is None):
        raise UserError("give --pairs FILE.jsonl or --tasks NAME,NAME: whose answers")
    if tasks is not None:
        return task_pairs(tasks, tasks_folder, limit=limit)
    assert pairs is not None
    return read_pairs(pairs)


def choose_measure(
    law: str | Path | None,
    *,
    score: float | None = None,
    score_error: float = 0.0,
    text: str | None = None,
    pairs: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    tasks_folder: str | Path | None = None,
    limit: int | None = None,
    max_bytes: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Measure:
    """Returns the measure of density from whichever of score, tasks, text and pairs is given.

    Args:
        law: Name of a shipped law or file of one, as in `named_law`.

    Raises:
        UserError: not exactly one of `score`, `tasks`, `text` and `pairs` is given.
    """
    check_one_measure(score=score, tasks=tasks, text=text, pairs=pairs)
    used = named_law(law)
    if score is not None:
        return by_score(used, score, score_error, seed=seed)
    if tasks is not None:
        return by_tasks(used, tasks, tasks_folder, limit=limit, seed=seed, progress=progress)
    if text is not None:
        return by_text(used, text, max_bytes=max_bytes, seed=seed, progress=progress)
    assert pairs is not None
    return by_pairs(used, read_pairs(pairs), seed=seed, progress=progress)
