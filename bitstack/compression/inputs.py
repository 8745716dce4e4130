"""Opens and checks what a compression is made of, before anything is written.

Whatever can go wrong with the user's input goes wrong here, where that can be known. Does not start
a run; see `compression.job`.
"""

import difflib
import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bitstack.calibration.windows import CalibrationText, read_text
from bitstack.compression.peak_memory import peak_memory
from bitstack.container.blocks import StackSpec
from bitstack.container.manifest import FOLDER
from bitstack.container.output import check_output
from bitstack.errors import UserError
from bitstack.machine.device import pick_device
from bitstack.machine.free_memory import memory_room
from bitstack.machine.new_folder import existing_folder
from bitstack.machine.sizes import format_bytes
from bitstack.ordering.reference import BYTES_PER_TOKEN, KEPT_TOKENS
from bitstack.original.config_facts import width
from bitstack.original.decoder_layers import find_layers
from bitstack.original.dry_pass import dry_pass
from bitstack.original.hub_cache import Located
from bitstack.original.matrices import find_dense, find_matrices
from bitstack.original.matrix import Dense, Matrix
from bitstack.original.row_parts import in_parts
from bitstack.original.source import Source, open_source
from bitstack.original.unreached import unreached_line
from bitstack.recipe import NO_TEXT, Recipe, matches

_log = logging.getLogger(__name__)

BATCH_TOKENS = 2048  # tokens of one forward pass through a layer: a window of usual length


@dataclass
class Inputs:
    """The inputs of a run, opened and found usable, and the bytes a run with them takes."""

    source: Source
    recipe: Recipe
    folder: Path  # the output
    text: CalibrationText | None  # None for a run without data
    matrices: list[Matrix]  # what is decomposed
    dense: list[Dense]  # what stays as it is

    @cached_property
    def device(self) -> str:
        return pick_device(self.recipe.device)

    @property
    def tunes(self) -> bool:
        """Whether scales and codes are tuned against the original."""
        return self.text is not None and self.recipe.tunes

    @property
    def tokens(self) -> int:
        """Tokens of the calibration; 0 without text."""
        return self.text.windows.numel() if self.text else 0

    @property
    def batch_tokens(self) -> int:
        """Tokens of one pass through a layer; 0 without text."""
        return max(BATCH_TOKENS, self.text.length) if self.text else 0

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors of the container."""
        return self._stack_bytes + sum(d.bytes for d in self.dense)

    @property
    def memory_bytes(self) -> int:
        """Bytes resident at the peak, of each worker."""
        return peak_memory(self.source, self.matrices, self.recipe, self.batch_tokens)

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk at the peak: the journal, the shards made from it, the stacks once more
        after tuning, and spilled states."""
        tuned = self._stack_bytes if self.tunes else 0
        return 2 * self.stored_bytes + tuned + self._spilled_bytes

    @property
    def _stack_bytes(self) -> int:
        """Bytes of all blocks and scale sets."""
        specs = [stack_spec(m, self.recipe.of(m.name)) for m in self.matrices]
        return sum(t.bytes for spec in specs for t in spec.all())

    @property
    def _spilled_bytes(self) -> int:
        """Bytes of hidden states, gradients and predictions that wait in files."""
        if self.text is None or self.recipe.method != "codes":
            return 0
        hidden = width(self.source.config)
        layers = len(find_layers(self.source.model)[1])
        # Of a calibration window: what enters every layer, what leaves the last, and its gradient
        # at two layers.
        states = len(self.text.windows) * (layers + 3)
        # Of a tuning window: the original's state behind the last layer.
        states += len(self.text.tuning_windows) if self.recipe.tunes else 0
        # Of a window the order is measured on: the original's likeliest tokens.
        predictions = BYTES_PER_TOKEN * KEPT_TOKENS * len(self.text.order_windows)
        return self.text.length * (4 * hidden * states + predictions)


def open_inputs(model: str | Path | Located, output: str | Path, recipe: Recipe) -> Inputs:
    """Opens model and text, finds the matrices, and checks the output folder and the room.

    Raises:
        UserError: for input that cannot be used, an output folder that is taken, or too little
            disk or memory.
    """
    check_output(output)
    pick_device(recipe.device)  # says early that there is none
    source = open_source(model)
    text = read_text(source, recipe)
    matrices = _find_recipe_matrices(source, recipe)
    dense = find_dense(source.model, matrices)
    if any(m.kind == "expert" for m in matrices):
        source.model.set_experts_implementation("eager")  # one expert's product at a time
    inputs = Inputs(source, recipe, Path(output), text, matrices, dense)
    _check_room(inputs)
    return inputs


def tell_remarks(source: Source) -> None:
    """Warns of what a user should know of how the model was read."""
    for remark in source.remarks:
        _log.warning("warning: %s: %s", source.name, remark)


def stack_spec(matrix: Matrix, recipe: Recipe) -> StackSpec:
    """Returns the shape of the stack of a matrix under `recipe`, the recipe of this matrix."""
    rank = min(recipe.rank, matrix.rows, matrix.columns) if recipe.method == "signs" else 0
    return StackSpec(recipe.method, matrix.rows, matrix.columns, recipe.blocks, rank, recipe.ends)


def _find_recipe_matrices(source: Source, recipe: Recipe) -> list[Matrix]:
    """The matrices that the recipe decomposes. Raises UserError for overrides that match nothing,
    or only parts of a tensor."""
    seen = dry_pass(source.model)
    if line := unreached_line(source.model, seen):
        source.remarks.append(line)
    matrices = find_matrices(source.model, embeddings=recipe.embeddings == "decompose", seen=seen)
    names = [m.name for m in matrices]
    for pattern in recipe.overrides:
        if not any(matches(name, pattern) for name in names):
            roles = {m.role for m in matrices}
            near = difflib.get_close_matches(pattern.removeprefix("*."), roles, n=3, cutoff=0.3)
            raise UserError(
                f"recipe {recipe.name}: overrides: {pattern!r} matches no matrix of the model; "
                f"near it: {', '.join(near) or ', '.join(sorted(roles)[:3])}"
            )
    kept = [m for m in matrices if not recipe.leaves_dense(m.name)]
    dense = {m.parameter for m in matrices} - {m.parameter for m in kept}
    for matrix in matrices:
        if recipe.leaves_dense(matrix.name) and matrix.parameter not in dense:
            raise UserError(
                f"recipe {recipe.name}: overrides: {matrix.name} is part of {matrix.parameter}, "
                "whose other parts are decomposed; leave all of it dense or none"
            )
    if not kept:
        raise UserError(f"recipe {recipe.name}: nothing is left to decompose")
    parted = recipe.method == "codes" and recipe.calibration != NO_TEXT
    return in_parts(kept) if parted else kept


def _check_room(inputs: Inputs) -> None:
    """Raises UserError where disk or memory will not do; the journal's files count as done."""
    folder, journal = inputs.folder, inputs.folder / FOLDER
    written = sum(file.stat().st_size for file in journal.rglob("*") if file.is_file())
    needed = inputs.disk_bytes - written
    free = shutil.disk_usage(existing_folder(folder)).free
    if free < needed:
        raise UserError(
            f"--output {folder}: {format_bytes(needed)} of disk are needed while it runs, but "
            f"{format_bytes(free)} are free; free some, name a folder on another disk, or take "
            "fewer --num-samples"
        )
    room = memory_room()
    if room is not None and room < inputs.memory_bytes:
        raise UserError(
            f"{inputs.source.path}: about {format_bytes(inputs.memory_bytes)} of memory are "
            f"needed at the peak, but {format_bytes(room)} can be had; close other programs, start "
            "fewer workers, or take --recipe fast"
        )
