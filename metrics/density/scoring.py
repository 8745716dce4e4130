"""The densities of models by name, from a score, or from a loss measured as the law's series was.

Ways to the same N̂: a score (the published one), a loss on the kind of text the series was
measured on, or the conditional loss of answers. The law is
`capacity_density`'s business, the losses those of `measured_density` and `conditional_loss`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.metrics.capacity.measured import opened_models
from bitstack.metrics.density.capacity_density import Density, density, density_of_loss
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.density.law_file import classics_law, load_law
from bitstack.metrics.density.measured import law_density
from bitstack.metrics.loss.conditional_loss import (
    ConditionalLoss,
    Pair,
    conditional_loss,
    read_pairs,
)
from bitstack.metrics.loss.documents import read_texts
from bitstack.metrics.statistics.bootstrap import standard_error
from bitstack.metrics.tasks.scores import mean_accuracy, run_tasks, task_pairs


@dataclass(frozen=True)
class Scored:
    """A model as named, its size, and its density."""

    model: str
    budget_bytes: int | None
    density: Density

    def to_json(self) -> dict[str, Any]:
        """All fields of both in one object."""
        return {"model": self.model, "budget_bytes": self.budget_bytes} | asdict(self.density)


Measure = Callable[[Opened], Density]


def score_models(
    paths: Sequence[str],
    measure: Measure,
    *,
    budgets: Sequence[str] = (),
    device: str = "auto",
) -> list[Scored]:
    """`measure` of every model of `paths`, containers at every budget."""
    return [
        Scored(name, opened.budget_bytes, measure(opened))
        for name, opened in opened_models(paths, budgets, device)
    ]


def by_score(law: DensityLaw, score: float, error: float = 0.0, *, seed: int = 0) -> Measure:
    """Density of a model whose score is known."""
    return lambda opened: density(
        law,
        score=score,
        score_error=error,
        parameters=opened.parameters,
        stored_bytes=opened.resident_bytes,
        seed=seed,
    )


def by_tasks(
    law: DensityLaw,
    tasks: Sequence[str],
    folder: str | Path | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Measure:
    """Density by the mean of the tasks' accuracies, which the law's scores must be of."""

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
    """Density by the loss on a text of the kind the law's series was measured on."""
    texts = read_texts(text, max_bytes=max_bytes)
    return lambda opened: law_density(opened, law, texts, seed=seed, progress=progress)


def by_pairs(
    law: DensityLaw, pairs: Sequence[Pair], *, seed: int = 0, progress: bool = False
) -> Measure:
    """Density by the nats of an answer given its instruction, the mean over `pairs`.

    Raises UserError for a law of losses over windows of a text.
    """
    if law.protocol is not None:
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
    """A model as named, its size, and its conditional loss."""

    model: str
    budget_bytes: int | None
    parameters: int
    resident_bytes: int
    loss: ConditionalLoss

    def to_json(self) -> dict[str, Any]:
        """All fields of both in one object."""
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
    """Conditional loss of every model of `paths`, containers at every budget."""
    found = []
    for name, opened in opened_models(paths, budgets, device):
        loss = conditional_loss(opened.model, opened.tokenizer, pairs, seed=seed, progress=progress)
        found.append(
            AnswerLoss(name, opened.budget_bytes, opened.parameters, opened.resident_bytes, loss)
        )
    return found


def answers(
    pairs: str | Path | None,
    tasks: Sequence[str] | None,
    tasks_folder: str | Path | None,
    limit: int | None = None,
) -> list[Pair]:
    """The pairs of a JSONL file or of lm-eval tasks. Raises UserError unless one is given."""
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
    """The measure asked for, with the law of a file (None: the shipped law).

    Raises UserError unless exactly one of `score`, `tasks`, `text` and `pairs` is given.
    """
    if sum(one is not None for one in (score, tasks, text, pairs)) != 1:
        raise UserError("give one of --score, --tasks, --text and --pairs: what density goes by")
    used = classics_law() if law is None else load_law(law)
    if score is not None:
        return by_score(used, score, score_error, seed=seed)
    if tasks is not None:
        return by_tasks(used, tasks, tasks_folder, limit=limit, seed=seed, progress=progress)
    if text is not None:
        return by_text(used, text, max_bytes=max_bytes, seed=seed, progress=progress)
    assert pairs is not None
    return by_pairs(used, read_pairs(pairs), seed=seed, progress=progress)
