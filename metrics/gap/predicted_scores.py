"""Predicts task scores of a container at budgets whose tasks are not run, from their KL divergence.

The original and a few budgets answer the tasks. Of every budget the KL divergence from the original
is measured on a short text, which takes a small part of that time. Does not predict itself; see
`metrics.tasks.prediction`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitstack.container.recognition import is_container
from bitstack.errors import UserError
from bitstack.live.opening import Opened, open_model
from bitstack.machine.extras import require
from bitstack.machine.progress import bar
from bitstack.metrics.gap.capacity_gap import capacity_gap
from bitstack.metrics.loss.documents import read_texts, texts_sha256
from bitstack.metrics.tasks.predicted import ORIGINAL, ScoreAt, Size, fill_in
from bitstack.metrics.tasks.runner import run_tasks
from bitstack.original.hub_cache import locate

MEASURED = ("floor", "2bpw")  # the budgets between them and the original are the usual ones
PREDICTED = ("2.5bpw", "3bpw", "4bpw")
TEXT_BYTES = 20_000  # of the text, for the KL


@dataclass(frozen=True)
class PredictedScores:
    """What `compress-model metric scores` gives: sizes, and the scores of each."""

    model: str  # the container, as given
    original: str
    text: str  # of the KL
    text_sha256: str
    limit: int | None  # documents of a task, None for all
    questions: dict[str, int]  # by task
    left_out: list[str]  # "task metric" that cannot be predicted
    seed: int
    sizes: list[tuple[Size, list[ScoreAt]]]  # by KL; the original first

    def to_json(self) -> dict[str, Any]:
        """Returns all fields, with one flat object for every size."""
        data = {name: getattr(self, name) for name in PredictedScores.__dataclass_fields__}
        rows = [
            {k: v for k, v in vars(size).items() if k != "scores"}
            | {"scores": [asdict(one) for one in scores]}
            for size, scores in self.sizes
        ]
        return data | {"sizes": rows}


def predict_scores(
    folder: str | Path,
    tasks: Sequence[str],
    tasks_folder: str | Path | None,
    text: str,
    *,
    original: str | Path,
    budgets: Sequence[str],
    measured: Sequence[str] = MEASURED,
    limit: int | None = None,
    max_bytes: int | None = TEXT_BYTES,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> PredictedScores:
    """Runs tasks at the budgets `measured`, and predicts their scores at `budgets`.

    Args:
        folder: The container.
        tasks: Names of tasks with choices; of others no score is predicted.
        tasks_folder: Holds their data, as in `run_tasks`.
        text: Text source for the KL; its first `max_bytes` are read.
        original: The model that the container was made from.
        limit: Questions of each task; None takes all.
        seed: Of the random draws behind the intervals.

    Raises:
        UserError: no task has choices, or a model, budget, text or task cannot be used.
    """
    require("lm_eval")
    if not is_container(locate(folder).folder):
        raise UserError(f"{folder}: not a container; give one made by `compress-model run`")
    if not measured or not budgets:
        raise UserError("--measure and --budget: give at least one budget to each")
    texts = read_texts(text, max_bytes=max_bytes)
    teacher = open_model(original, device=device)
    options: dict[str, Any] = {"limit": limit, "seed": seed, "progress": progress}
    scores = tuple(run_tasks(teacher, tasks, tasks_folder, **options))
    known = [one for one in scores if one.margins]
    if not known:
        raise UserError(f"--tasks {','.join(tasks)}: none has questions with choices; take others")
    sizes = [Size(ORIGINAL, None, teacher.resident_bytes, 0.0, scores)]
    wanted = dict.fromkeys([*measured, *budgets])
    for budget in bar(wanted, desc="budgets", show=progress):
        opened = open_model(folder, budget=budget, device=device)
        run = run_tasks(opened, tasks, tasks_folder, **options) if budget in measured else ()
        kl = kl_from(teacher, opened, texts, seed)
        sizes.append(Size(budget, opened.budget_bytes, opened.resident_bytes, kl, tuple(run)))
    return PredictedScores(
        model=str(folder),
        original=str(original),
        text=text,
        text_sha256=texts_sha256(texts),
        limit=limit,
        questions={one.task: len(one.margins) for one in known},
        left_out=[f"{one.task} {one.metric}" for one in scores if not one.margins],
        seed=seed,
        sizes=fill_in(sizes, seed=seed),
    )


def kl_from(teacher: Opened, opened: Opened, texts: Sequence[str], seed: int = 0) -> float:
    """Returns the KL divergence of an open model from its original on `texts`, nats per token."""
    gap = capacity_gap(
        teacher.model, opened.model, teacher.tokenizer, texts, student_tokenizer=opened.tokenizer,
        seed=seed,
    )  # fmt: skip
    return gap.whole.kl
