"""What a compression is made of, opened and checked before anything is written.

All that can go wrong with the user's input goes wrong here, where that can be known.
"""

import difflib
import fnmatch
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bitstack.calibration.windows import CalibrationText, read_text
from bitstack.compression.costs import peak_memory
from bitstack.container.blocks import StackSpec
from bitstack.container.journal import FOLDER
from bitstack.container.manifest import MANIFEST
from bitstack.errors import UserError
from bitstack.machine.device import pick_device
from bitstack.machine.free_memory import memory_room
from bitstack.machine.sizes import format_bytes
from bitstack.ordering.reference import LIKELY
from bitstack.original.matrices import Dense, Matrix, find_dense, find_layers, find_matrices
from bitstack.original.source import Source, open_source
from bitstack.recipe import Recipe

BATCH_TOKENS = 2048  # of one forward pass through a layer: a window of usual length


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
        specs = [stack_spec(m, self.recipe.of(m.name)) for m in self.matrices]
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
        return max(BATCH_TOKENS, self.text.length) if self.text else 0


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


def stack_spec(matrix: Matrix, recipe: Recipe) -> StackSpec:
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
