"""Opens one compression: its checked inputs, its journal, and what the stages make of them.

Does not check the inputs; see `compression.inputs`. Does not run the stages; see
`compression.pipeline`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitstack.calibration.layers import LayerRunner
from bitstack.compression.clock import Clock, start_clock
from bitstack.compression.fingerprint import fingerprint
from bitstack.compression.inputs import (
    BATCH_TOKENS,
    Inputs,
    open_inputs,
    stack_spec,
    tell_remarks,
)
from bitstack.container.budget import Budgets
from bitstack.container.entries import StackEntry
from bitstack.container.journal import Journal, recorded_fingerprint, remove_work
from bitstack.container.manifest import FOLDER, MANIFEST
from bitstack.container.output import holds_container
from bitstack.machine.folder_lock import FolderLock
from bitstack.machine.workers import Workers
from bitstack.original.hub_cache import Located
from bitstack.original.matrix import Matrix
from bitstack.recipe import NO_TEXT, Recipe

_log = logging.getLogger(__name__)
_FINISHED = "finished"  # what the first worker publishes instead of a fingerprint


@dataclass
class Job(Inputs):
    """A run that has begun: its inputs, its journal, and the workers that share it."""

    journal: Journal
    progress: bool  # whether progress bars are shown
    workers: Workers = field(default_factory=Workers)
    clock: Clock | None = None  # of a run that was given a time

    def runner(
        self,
        windows: Tensor | None = None,
        *,
        samples: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        dtype: torch.dtype = torch.float32,
    ) -> LayerRunner:
        """Returns a runner of the original model over (the first `samples`) windows.

        Args:
            windows: int64 ids [count, length]; None for those of the calibration.
            batch_tokens: tokens of one batch, at least one window.
            dtype: of the model's products.
        """
        if windows is None and self.text:
            windows = self.text.windows
        if windows is None:
            return LayerRunner(self.source, [], self.device, dtype)
        batches = windows[:samples].split(max(1, batch_tokens // windows.shape[1]))
        return LayerRunner(self.source, list(batches), self.device, dtype)

    @cached_property
    def stacks(self) -> list[StackEntry]:
        """The finished stacks, from the journal."""
        return [self._stack(matrix) for matrix in self.matrices]

    def _stack(self, matrix: Matrix) -> StackEntry:
        note = self.journal.notes[matrix.name]
        spec = stack_spec(matrix, self.recipe.of(matrix.name))
        spec = replace(spec, rotation=note["rotation"], outliers=note["outliers"])
        return StackEntry.of(matrix, spec, note["errors"])

    @property
    def compares(self) -> bool:
        """Whether the stacks are compared with rounding: both minimise the same without text."""
        return self.text is None and self.recipe.method == "codes"

    def losses(self) -> list[list[float]]:
        """Returns the predicted loss of every finished stack at every level, nats per token."""
        return [self.journal.notes[entry.name]["losses"] for entry in self.stacks]

    def budgets(self, order: Sequence[int]) -> Budgets:
        """Returns what the levels of the finished stacks cost along an order of them."""
        return Budgets(
            stack_bytes=[entry.spec.bytes() for entry in self.stacks],
            fixed_bytes=0,
            order=order,
            weights=[entry.rows * entry.columns for entry in self.stacks],
        )

    @property
    def stored_dense(self) -> list[str]:
        """Names of the dense tensors that the container holds."""
        return [d.name for d in self.dense if d.persistent]

    @property
    def text_name(self) -> str:
        """What the container calls the text: no path of this machine."""
        path = Path(self.recipe.calibration)
        return path.name if path.exists() else self.recipe.calibration

    @property
    def recipe_calibration(self) -> str:
        """The text as the container's recipe names it: as given, but no absolute path."""
        given = Path(self.recipe.calibration)
        return self.text_name if given.is_absolute() else self.recipe.calibration

    def text_record(self) -> dict[str, Any] | None:
        """Returns what the manifest says of the text: the hash of all that was read (`sha256`),
        and how many windows of it calibrated and tuned."""
        if self.text is None:
            return None
        samples, length = self.text.windows.shape
        return {
            "source": self.text_name,
            "sha256": self.text.tokens.sha256,
            "samples": samples,
            "length": length,
            "tuned": len(self.text.tuning_windows) if self.tunes else 0,
        }


def open_job(
    model: str | Path | Located,
    output: str | Path,
    recipe: Recipe,
    progress: bool,
    workers: Workers | None = None,
    seconds: float | None = None,
    lock: FolderLock | None = None,
) -> Job | None:
    """Opens and checks everything, and starts or takes up the journal in `output`.

    The first of several `workers` does it before the others, and tells them the fingerprint of the
    run, so that not every one of them hashes the model. With `seconds` the recipe is fitted to that
    time, which the first worker does too. It alone takes the `lock`, that of the work folder.

    Returns:
        None if an earlier call of this run has finished the container but not removed its work,
        which is done here.

    Raises:
        UserError: for input that cannot be used, or a journal of another run.
    """
    workers = workers or Workers()
    run_hash = workers.receive("fingerprint") if workers.rank else None
    if run_hash == _FINISHED:
        return None
    inputs, clock = open_inputs(model, output, recipe), None
    if seconds is not None and not workers.rank:
        clock = start_clock(inputs, seconds, inputs.folder / FOLDER)
        _log.warning("\n".join(clock.lines()))
        workers.publish("plan", clock.plan.model_dump_json())
    if seconds is not None:
        received = workers.receive("plan") if workers.rank else None
        plan = clock.plan if clock else Recipe.model_validate_json(str(received))
        inputs = inputs if plan == recipe else open_inputs(model, output, plan)
        recipe = plan
    text = inputs.text
    if not workers.rank:
        _tell_text(recipe)
        tell_remarks(inputs.source)
    sha256 = text.tokens.sha256 if text else None
    run_hash = run_hash or fingerprint(inputs.source.identity, recipe, sha256)
    if lock:
        lock.take()
    if not workers.rank and (inputs.folder / MANIFEST).exists():
        _remove_leftover(inputs.folder, run_hash)
        workers.publish("fingerprint", _FINISHED)
        return None
    journal = Journal(inputs.folder, run_hash)
    if clock:
        clock.write(journal.path)
    workers.publish("fingerprint", run_hash)
    workers.wait("opened")  # before anybody adds to the journal, by which the work is shared
    return Job(
        inputs.source, recipe, inputs.folder, text, inputs.matrices, inputs.dense,
        journal, progress, workers, clock,
    )  # fmt: skip


def _remove_leftover(folder: Path, run_hash: str) -> None:
    """Removes the work beside a finished container. Raises UserError if it is of another run."""
    same = recorded_fingerprint(folder) == run_hash
    remove_work(folder)
    if not same:
        raise holds_container(folder)


def _tell_text(recipe: Recipe) -> None:
    """Says that there is no text, or which is taken where none was named."""
    if recipe.calibration == NO_TEXT:
        _log.warning(
            "warning: no calibration text, so all inputs count alike and more is lost; "
            "give a calibration source"
        )
    elif "calibration" not in recipe.model_fields_set:
        _log.warning(
            "calibration: the general text that is shipped; --calibration FILE of the kind you use "
            "the model on is better"
        )
