"""What a compression is made of, opened and checked before anything is written.

All that can go wrong with the user's input goes wrong here, where that can be known.
"""

import difflib
import fnmatch
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.windows import CalibrationText, read_text
from bitstack.compression.costs import peak_memory
from bitstack.compression.fingerprint import fingerprint
from bitstack.container.blocks import StackSpec
from bitstack.container.budget import Budgets, format_bytes
from bitstack.container.journal import FOLDER, Journal
from bitstack.container.manifest import MANIFEST, StackEntry
from bitstack.errors import UserError
from bitstack.machine.device import pick_device
from bitstack.machine.free_memory import memory_room
from bitstack.machine.workers import Workers
from bitstack.ordering.reference import LIKELY
from bitstack.original.matrices import Dense, Matrix, find_dense, find_layers, find_matrices
from bitstack.original.source import Source, open_source
from bitstack.recipe import Recipe

_log = logging.getLogger(__name__)
_BATCH_TOKENS = 2048  # of one forward pass through a layer: a window of usual length


@dataclass
class Checked:
    """The inputs of a run, opened and found usable; nothing is written yet."""

    source: Source
    recipe: Recipe
    folder: Path
    text: CalibrationText | None
    matrices: list[Matrix]
    dense: list[Dense]

    @cached_property
    def device(self) -> str:
        return pick_device(self.recipe.device)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors a container holds."""
        return self._stack_bytes + sum(d.bytes for d in self.dense)

    @property
    def _stack_bytes(self) -> int:
        specs = [_spec(m, self.recipe.of(m.name)) for m in self.matrices]
        return sum(t.bytes for spec in specs for t in spec.all())

    @property
    def disk_bytes(self) -> int:
        """At the peak: the journal, the shards made from it, what was tuned again, and the states
        in files."""
        again = self._stack_bytes if self.tunes else 0
        spilled = _spilled_bytes(self.source, self.recipe, self.text)
        return 2 * self.stored_bytes + again + spilled

    @property
    def tunes(self) -> bool:
        """Are scales and codes tuned against the original?"""
        return self.text is not None and self.recipe.tunes

    @property
    def memory_bytes(self) -> int:
        """Resident at the peak, of each worker."""
        return peak_memory(self.source, self.matrices, self.recipe, self.batch_tokens)

    @property
    def tokens(self) -> int:
        """Of the calibration; 0 without text."""
        return self.text.windows.numel() if self.text else 0

    @property
    def batch_tokens(self) -> int:
        """Of one pass through a layer; 0 without text."""
        return max(_BATCH_TOKENS, self.text.length) if self.text else 0


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
        tokens: int = _BATCH_TOKENS,
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
            StackEntry.of(m, _spec(m, self.recipe.of(m.name)), self.journal.notes[m.name]["errors"])
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


def check(model: str | Path, output: str | Path, recipe: Recipe) -> Checked:
    """Open the inputs and look whether there is room. UserError for what would stop the run."""
    source = open_source(model)
    text = read_text(source, recipe)
    matrices = _matrices(source, recipe)
    dense = find_dense(source.model, matrices)
    if any(m.kind == "expert" for m in matrices):
        source.model.set_experts_implementation("eager")  # one expert's product at a time
    checked = Checked(source, recipe, Path(output), text, matrices, dense)
    _check_output(checked.folder)
    _check_room(checked)
    return checked


def _matrices(source: Source, recipe: Recipe) -> list[Matrix]:
    """What is decomposed. UserError for overrides that match nothing, or parts of a tensor."""
    found = find_matrices(source.model, embeddings=recipe.embeddings == "decompose")
    names = [m.name for m in found]
    for pattern in recipe.overrides:
        if not fnmatch.filter(names, pattern):
            roles = {m.role for m in found}
            near = difflib.get_close_matches(pattern.removeprefix("*."), roles, n=3, cutoff=0.3)
            raise UserError(
                f"recipe {recipe.name}: overrides: {pattern!r} matches no matrix of the model; "
                f"near it: {', '.join(near) or ', '.join(sorted(roles)[:3])}"
            )
    kept = [m for m in found if not recipe.leaves_dense(m.name)]
    dense = {m.parameter for m in found} - {m.parameter for m in kept}
    for matrix in found:
        if recipe.leaves_dense(matrix.name) and matrix.parameter not in dense:
            raise UserError(
                f"recipe {recipe.name}: overrides: {matrix.name} is part of {matrix.parameter}, "
                "whose other parts are decomposed; leave all of it dense or none"
            )
    if not kept:
        raise UserError(f"recipe {recipe.name}: nothing is left to decompose")
    return kept


def _spec(matrix: Matrix, recipe: Recipe) -> StackSpec:
    """What the recipe of a matrix makes of it."""
    rank = min(recipe.rank, matrix.rows, matrix.columns) if recipe.method == "signs" else 0
    return StackSpec(recipe.method, matrix.rows, matrix.columns, recipe.blocks, rank, recipe.ends)


def _spilled_bytes(source: Source, recipe: Recipe, text: CalibrationText | None) -> int:
    """Inputs of all layers, outputs of the last and one gradient, fp32, the original's last states
    of what is tuned on, and of the windows the order is measured on what it predicts: they lie in
    files."""
    if text is None or recipe.method != "codes":
        return 0
    width = source.config.get_text_config().hidden_size
    states = len(text.windows) * (len(find_layers(source.model)[1]) + 2)
    states += len(text.tuning) if recipe.tunes else 0
    return text.length * (4 * width * states + 8 * LIKELY * len(text.order))


def _check_output(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file; name a folder")
    if (folder / MANIFEST).exists():
        raise UserError(f"--output {folder}: already holds a container; name another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FOLDER).is_dir():
        raise UserError(f"--output {folder}: is not empty; name a new folder")


def _check_room(checked: Checked) -> None:
    folder, work = checked.folder, checked.folder / FOLDER
    parent = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    kept = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    free, needed = shutil.disk_usage(parent).free, checked.disk_bytes - kept
    if free < needed:
        raise UserError(
            f"--output {folder}: {format_bytes(needed)} of disk are needed while it runs, but "
            f"{format_bytes(free)} are free; free some, name a folder on another disk, or take "
            "fewer --samples"
        )
    room = memory_room()
    if room is not None and room < checked.memory_bytes:
        raise UserError(
            f"{checked.source.path}: about {format_bytes(checked.memory_bytes)} of memory are "
            f"needed at the peak, but {format_bytes(room)} can be had; close other programs, start "
            "fewer workers, or take --recipe fast"
        )
