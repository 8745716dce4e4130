"""The pipeline: model folder in, stacked model out, one decoder layer in memory at a time.

Calls the rooms in their order and holds no algorithm: matrices, calibration and decompose (in
`stacker`), order, container.
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from bitstack import order as ordering
from bitstack.blocks import StackSpec
from bitstack.budget import format_bytes
from bitstack.container.manifest import MANIFEST, DenseEntry, Manifest, StackEntry
from bitstack.container.shards import tensor_order, write_shards
from bitstack.container.work import FOLDER, Journal
from bitstack.device import pick_device
from bitstack.errors import UserError
from bitstack.fingerprint import fingerprint
from bitstack.matrices import Dense, Matrix, find_dense, find_matrices
from bitstack.measure import LayerMeasure
from bitstack.recipe import Recipe, load_recipe
from bitstack.source import Source, open_source
from bitstack.stacker import Stacker
from bitstack.streaming import LayerRunner
from bitstack.text import Tokens, token_ids, windows

_BATCH_TOKENS = 8192  # of one forward pass through a layer
_COPIED = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab*", "merges.txt", "spiece.model", "chat_template*", "LICENSE*",
)  # fmt: skip


def compress(
    model: str | Path,
    output: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    progress: bool = False,
    **fields: Any,
) -> Path:
    """Compress the model folder `model` into the container `output` and return its path.

    `recipe` is a name, a YAML file or a Recipe; `fields` override its fields. UserError before
    anything is written for whatever can be known before; an interrupted run leaves a journal in
    `output`, from which the same call goes on, and nothing that loads.
    """
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, **fields)
    source = open_source(model)
    folder = Path(output)
    text = _read_text(source, resolved)
    matrices = find_matrices(source.model, embeddings=resolved.embeddings == "decompose")
    dense = find_dense(source.model, matrices)
    if any(m.kind == "expert" for m in matrices):
        source.model.set_experts_implementation("eager")  # one expert's product at a time
    _check_output(folder, _stored_bytes(matrices, dense, resolved))
    made_from = fingerprint(source.path, resolved, text[0].sha256 if text else None)
    journal = Journal(folder, made_from)
    runner = LayerRunner(source, _batches(text[1]) if text else [], pick_device(resolved.device))
    Stacker(runner, matrices, dense, resolved, journal, progress).run()
    _write(source, resolved, folder, text, journal, matrices, dense, progress)
    return folder


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
    vocabulary = source.model.get_input_embeddings().num_embeddings
    if int(tokens.ids.max()) >= vocabulary:
        raise UserError(
            f"{source.path}: the tokenizer gives id {int(tokens.ids.max())}, but the model has "
            f"{vocabulary} embeddings: tokenizer and model do not belong together"
        )
    return tokens, windows(tokens.ids, length, count=recipe.samples, seed=recipe.seed)


def _batches(rows: Tensor) -> list[Tensor]:
    return list(rows.split(max(1, _BATCH_TOKENS // rows.shape[1])))


def _spec(matrix: Matrix, recipe: Recipe) -> StackSpec:
    rank = min(recipe.rank, matrix.rows, matrix.columns) if recipe.method == "signs" else 0
    return StackSpec(recipe.method, matrix.rows, matrix.columns, recipe.blocks, rank)


def _stored_bytes(matrices: list[Matrix], dense: list[Dense], recipe: Recipe) -> int:
    stored = sum(t.bytes for m in matrices for t in _spec(m, recipe).all())
    return stored + sum(d.bytes for d in dense)


def _check_output(folder: Path, needed: int) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file; name a folder")
    if (folder / MANIFEST).exists():
        raise UserError(f"--output {folder}: already holds a container; name another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FOLDER).is_dir():
        raise UserError(f"--output {folder}: is not empty; name a new folder")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(parent).free
    if free < 2 * needed:  # the journal, and the shards made from it
        raise UserError(
            f"--output {folder}: {format_bytes(2 * needed)} of disk are needed while it runs, but "
            f"{format_bytes(free)} are free; free some or name a folder on another disk"
        )


def _write(
    source: Source,
    recipe: Recipe,
    folder: Path,
    text: tuple[Tokens, Tensor] | None,
    journal: Journal,
    matrices: list[Matrix],
    dense: list[Dense],
    progress: bool,
) -> None:
    """The order, then the shards, then the manifest, which makes the container whole."""
    notes = [journal.notes[m.name] for m in matrices]
    stacks = [
        StackEntry.of(
            m, StackSpec(recipe.method, m.rows, m.columns, n["levels"], n["rank"]), n["errors"]
        )
        for m, n in zip(matrices, notes, strict=True)
    ]
    stored = [d.name for d in dense if d.persistent]
    measure = None
    if text:
        runner = LayerRunner(
            source, _batches(text[1][: recipe.order_samples]), pick_device(recipe.device)
        )
        measure = LayerMeasure(runner, journal, stacks, stored)
    order = _order(recipe, stacks, [n["losses"] for n in notes], measure, progress)
    names = list(tensor_order(stored, {e.name: e.spec for e in stacks}, order))
    shards = write_shards(folder, journal, names, _stored_bytes(matrices, dense, recipe))
    _copy_config(source, folder)
    Manifest(
        base_model=source.path.resolve().name,
        original_bytes=source.bytes,
        dtype=str(source.dtype).removeprefix("torch."),
        stacks=stacks,
        dense=[DenseEntry.of(d) for d in dense],
        order=order,
        shards=shards,
        recipe=recipe.model_dump(),
        text=_text_note(recipe, text),
        versions={name: version(name) for name in ("bitstack", "torch", "transformers")},
    ).write(folder)
    journal.remove()


def _order(
    recipe: Recipe,
    stacks: list[StackEntry],
    losses: list[list[float]],
    measure: LayerMeasure | None,
    progress: bool,
) -> list[int]:
    if recipe.order == "perplexity":
        assert measure
        return ordering.perplexity_order([e.levels for e in stacks], measure, show=progress)
    if measure:
        roles = [e.matrix.role for e in stacks]
        losses = ordering.corrected(losses, roles, measure, show=progress)
    return ordering.predicted_order([e.spec.bytes() for e in stacks], losses)


def _copy_config(source: Source, folder: Path) -> None:
    """config.json with a quantization_config, and the tokenizer's files as they are."""
    config = source.config.to_dict()
    config["quantization_config"] = {"quant_method": "bitstack"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for pattern in _COPIED:
        for file in source.path.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def _text_note(recipe: Recipe, text: tuple[Tokens, Tensor] | None) -> dict[str, Any] | None:
    if text is None:
        return None
    samples, length = text[1].shape
    return {
        "source": Path(recipe.calibration).name
        if Path(recipe.calibration).exists()
        else recipe.calibration,
        "sha256": text[0].sha256,
        "samples": samples,
        "length": length,
    }
