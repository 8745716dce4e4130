"""What a compression is made of, opened and checked before anything is written.

All that can go wrong with the user's input goes wrong here, where that can be known.
"""

import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bitstack.blocks import StackSpec
from bitstack.budget import format_bytes
from bitstack.container.manifest import MANIFEST, StackEntry
from bitstack.container.work import FOLDER, Journal
from bitstack.device import pick_device
from bitstack.errors import UserError
from bitstack.fingerprint import fingerprint
from bitstack.matrices import Dense, Matrix, find_dense, find_layers, find_matrices
from bitstack.recipe import Recipe
from bitstack.source import Source, open_source
from bitstack.streaming import LayerRunner
from bitstack.text import Tokens, token_ids, windows

_log = logging.getLogger(__name__)
_BATCH_TOKENS = 8192  # of one forward pass through a layer


@dataclass
class Job:
    """One compression: source, recipe, text and journal, and what the stages make of them."""

    source: Source
    recipe: Recipe
    folder: Path
    text: tuple[Tokens, Tensor] | None  # and its windows, int64 [samples, length]
    matrices: list[Matrix]
    dense: list[Dense]
    journal: Journal
    progress: bool

    @cached_property
    def device(self) -> str:
        return pick_device(self.recipe.device)

    def runner(self, *, samples: int | None = None, tokens: int = _BATCH_TOKENS) -> LayerRunner:
        """The source layer by layer over the (first `samples`) windows, `tokens` a batch."""
        rows = self.text[1][:samples] if self.text else None
        batches = [] if rows is None else list(rows.split(max(1, tokens // rows.shape[1])))
        return LayerRunner(self.source, batches, self.device)

    @cached_property
    def stacks(self) -> list[StackEntry]:
        """The finished stacks, from the journal."""
        return [
            StackEntry.of(m, _spec(m, self.recipe), self.journal.notes[m.name]["errors"])
            for m in self.matrices
        ]

    @property
    def stored_dense(self) -> list[str]:
        """Dense tensors a container holds."""
        return [d.name for d in self.dense if d.persistent]

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors a container holds."""
        return _stored_bytes(self.matrices, self.dense, self.recipe)

    @property
    def text_name(self) -> str:
        """What the container calls the text: no path of this machine."""
        path = Path(self.recipe.calibration)
        return path.name if path.exists() else self.recipe.calibration

    def text_note(self) -> dict[str, Any] | None:
        """What the container says of the text."""
        if self.text is None:
            return None
        samples, length = self.text[1].shape
        return {
            "source": self.text_name,
            "sha256": self.text[0].sha256,
            "samples": samples,
            "length": length,
        }


def open_job(model: str | Path, output: str | Path, recipe: Recipe, progress: bool) -> Job:
    """Open and check everything. UserError for input that cannot be used."""
    source = open_source(model)
    folder = Path(output)
    text = _read_text(source, recipe)
    matrices = find_matrices(source.model, embeddings=recipe.embeddings == "decompose")
    dense = find_dense(source.model, matrices)
    if any(m.kind == "expert" for m in matrices):
        source.model.set_experts_implementation("eager")  # one expert's product at a time
    # The journal, the shards made from it, and what waits for the backward pass.
    needed = 2 * _stored_bytes(matrices, dense, recipe) + _spilled_bytes(source, recipe, text)
    _check_output(folder, needed)
    if text is None:
        _log.warning(
            "warning: no calibration text, so all inputs count alike and more is lost; "
            "give a calibration source"
        )
    made_from = fingerprint(source.path, recipe, text[0].sha256 if text else None)
    journal = Journal(folder, made_from)
    return Job(source, recipe, folder, text, matrices, dense, journal, progress)


def _read_text(source: Source, recipe: Recipe) -> tuple[Tokens, Tensor] | None:
    """The calibration text and its windows, int64 [samples, length]; None for data-free."""
    if recipe.calibration == "none":
        asked = [f for f in ("scaling",) if recipe.method == "signs" and getattr(recipe, f)]
        asked += ["order: perplexity"] if recipe.order == "perplexity" else []
        if asked:
            raise UserError(
                f"recipe {recipe.name}: calibration is none, but {' and '.join(asked)} needs text; "
                "give --calibration SOURCE, or --no-scaling --order loss"
            )
        return None
    readable = getattr(source.config.get_text_config(), "max_position_embeddings", None)
    length = min(recipe.length, readable or recipe.length)
    limit = 4 * length * recipe.samples  # four times what is used: windows spread over it
    tokens = token_ids(recipe.calibration, source.tokenizer(), max_tokens=limit)
    vocabulary = int(source.model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    if int(tokens.ids.max()) >= vocabulary:
        raise UserError(
            f"{source.path}: the tokenizer gives id {int(tokens.ids.max())}, but the model has "
            f"{vocabulary} embeddings: tokenizer and model do not belong together"
        )
    return tokens, windows(tokens.ids, length, count=recipe.samples, seed=recipe.seed)


def _spec(matrix: Matrix, recipe: Recipe) -> StackSpec:
    """What the recipe makes of a matrix."""
    rank = min(recipe.rank, matrix.rows, matrix.columns) if recipe.method == "signs" else 0
    return StackSpec(recipe.method, matrix.rows, matrix.columns, recipe.blocks, rank)


def _stored_bytes(matrices: list[Matrix], dense: list[Dense], recipe: Recipe) -> int:
    stored = sum(t.bytes for m in matrices for t in _spec(m, recipe).all())
    return stored + sum(d.bytes for d in dense)


def _spilled_bytes(source: Source, recipe: Recipe, text: tuple[Tokens, Tensor] | None) -> int:
    """The inputs of all layers at once, fp32: they lie in files until the backward pass."""
    if text is None or recipe.method != "codes":
        return 0
    width = source.config.get_text_config().hidden_size
    return 4 * width * text[1].numel() * len(find_layers(source.model)[1])


def _check_output(folder: Path, needed: int) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file; name a folder")
    if (folder / MANIFEST).exists():
        raise UserError(f"--output {folder}: already holds a container; name another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FOLDER).is_dir():
        raise UserError(f"--output {folder}: is not empty; name a new folder")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"--output {folder}: {format_bytes(needed)} of disk are needed while it runs, but "
            f"{format_bytes(free)} are free; free some, name a folder on another disk, or take "
            "fewer --samples"
        )
