"""One compression: its checked inputs, its journal, and what the stages make of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bitstack.calibration.layers import LayerRunner
from bitstack.compression.fingerprint import fingerprint
from bitstack.compression.inputs import BATCH_TOKENS, Checked, check, stack_spec
from bitstack.container.budget import Budgets
from bitstack.container.journal import Journal
from bitstack.container.manifest import StackEntry
from bitstack.machine.workers import Workers
from bitstack.recipe import Recipe

_log = logging.getLogger(__name__)


@dataclass
class Job(Checked):
    """One compression: its inputs and its journal, and what the stages make of them."""

    journal: Journal
    progress: bool
    workers: Workers = field(default_factory=Workers)

    def runner(
        self,
        rows: Tensor | None = None,
        *,
        samples: int | None = None,
        tokens: int = BATCH_TOKENS,
    ) -> LayerRunner:
        """The source layer by layer over (the first `samples`) windows, those of the calibration
        if `rows` [count, length] are not given; `tokens` a batch."""
        if rows is None and self.text:
            rows = self.text.windows
        batches = [] if rows is None else rows[:samples].split(max(1, tokens // rows.shape[1]))
        return LayerRunner(self.source, list(batches), self.device)

    @cached_property
    def stacks(self) -> list[StackEntry]:
        """The finished stacks, from the journal."""
        return [
            StackEntry.of(
                m, stack_spec(m, self.recipe.of(m.name)), self.journal.notes[m.name]["errors"]
            )
            for m in self.matrices
        ]

    def budgets(self, order: Sequence[int]) -> Budgets:
        """What the levels of the finished stacks cost along an order of them."""
        return Budgets(
            stack_bytes=[entry.spec.bytes() for entry in self.stacks],
            fixed_bytes=0,
            order=order,
            weights=[entry.rows * entry.columns for entry in self.stacks],
        )

    @property
    def stored_dense(self) -> list[str]:
        """Dense tensors a container holds."""
        return [d.name for d in self.dense if d.persistent]

    @property
    def text_name(self) -> str:
        """What the container calls the text: no path of this machine."""
        path = Path(self.recipe.calibration)
        return path.name if path.exists() else self.recipe.calibration

    @property
    def calibration(self) -> str:
        """The text as the recipe in the container names it: as it was given, where that says
        nothing of this machine."""
        given = Path(self.recipe.calibration)
        return self.text_name if given.is_absolute() else self.recipe.calibration

    def text_note(self) -> dict[str, Any] | None:
        """What the container says of the text: all that was read (`sha256`), and how many windows
        of it calibrated and tuned."""
        if self.text is None:
            return None
        samples, length = self.text.windows.shape
        return {
            "source": self.text_name,
            "sha256": self.text.tokens.sha256,
            "samples": samples,
            "length": length,
            "tuned": len(self.text.tuning) if self.tunes else 0,
        }


def open_job(
    model: str | Path,
    output: str | Path,
    recipe: Recipe,
    progress: bool,
    workers: Workers | None = None,
) -> Job:
    """Open and check everything. UserError for input that cannot be used.

    The first of several `workers` does it before the others, who take its word for what the run is
    made from.
    """
    workers = workers or Workers()
    made_from = workers.hear("fingerprint") if workers.rank else None
    checked = check(model, output, recipe)
    text = checked.text
    if text is None and not workers.rank:
        _log.warning(
            "warning: no calibration text, so all inputs count alike and more is lost; "
            "give a calibration source"
        )
    sha256 = text.tokens.sha256 if text else None
    made_from = made_from or fingerprint(checked.source.path, recipe, sha256)
    journal = Journal(checked.folder, made_from)
    workers.say("fingerprint", made_from)
    workers.wait("opened")  # before anybody adds to the journal, by which the work is shared
    return Job(
        checked.source, recipe, checked.folder, text, checked.matrices, checked.dense,
        journal, progress, workers,
    )  # fmt: skip
