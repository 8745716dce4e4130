"""The pipeline: model folder in, stacked model out, one decoder layer in memory at a time.

Calls the rooms in their order and holds no algorithm: matrices, calibration and decompose (in
`stacker`), order, tune, container.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bitstack.compression.costs import matrix_work
from bitstack.compression.decompose_stage import Stacker
from bitstack.compression.job import Job, open_job
from bitstack.compression.order_stage import rank
from bitstack.compression.tune_stage import tune
from bitstack.container.manifest import MANIFEST, DenseEntry, Manifest
from bitstack.container.shards import tensor_order, write_shards
from bitstack.machine.files import disk_errors
from bitstack.machine.workers import open_workers
from bitstack.original.side_files import copy_beside
from bitstack.original.source import Source
from bitstack.recipe import Recipe, load_recipe

RECIPE = "recipe.yaml"  # what `--recipe` takes to make the same container again


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

    Started by `torchrun`, the processes share the matrices; the bytes are those of one process
    with as many threads as each of them has.
    """
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, **fields)
    workers = open_workers()
    with workers.working():
        job = open_job(model, output, resolved, progress and not workers.rank, workers)
        _stack(job)
        if workers.rank == 0:
            _finish(job)
            workers.say("finished", "")
        else:
            workers.hear("finished")
        workers.leave()
    return job.folder


def _stack(job: Job) -> None:
    """All stacks into the journal."""
    Stacker(
        job.runner(),
        job.matrices,
        job.dense,
        job.recipe,
        job.journal,
        job.progress,
        job.workers,
        lambda matrix: matrix_work(matrix, job.recipe, text=job.text is not None),
    ).run()


def _finish(job: Job) -> None:
    """What one worker does alone: tuning, order and shards."""
    _keep_buffers(job)
    if job.tunes:
        tune(job)
    _write(job, rank(job))
    job.recipe.write(job.folder / RECIPE, job.calibration)
    job.journal.remove()


def _keep_buffers(job: Job) -> None:
    """Stored buffers (a router's bias) are no parameters of a layer: all of them at once."""
    buffers = dict(job.source.model.named_buffers())
    kept = {name: buffers[name] for name in job.stored_dense if name in buffers}
    if kept:
        job.journal.put("dense-buffers", kept, {})


def _write(job: Job, order: list[int]) -> None:
    """The shards, then the manifest, which makes the container whole."""
    specs = {e.name: e.spec for e in job.stacks}
    names = list(tensor_order(job.stored_dense, specs, order))
    floor = len(job.stored_dense) + sum(len(spec.stored(1)) for spec in specs.values())
    with disk_errors(job.folder / MANIFEST):
        shards = write_shards(
            job.folder, job.journal, names, job.stored_bytes,
            floor=floor, size=job.recipe.shard_size, guard=job.stacks[0].parameter,
        )  # fmt: skip
        _copy_config(job.source, job.folder)
        job.recipe.write(job.folder / RECIPE, job.calibration)
        Manifest(
            base_model=job.source.name,
            original_bytes=job.source.bytes,
            dtype=str(job.source.dtype).removeprefix("torch."),
            stacks=job.stacks,
            dense=[DenseEntry.of(d) for d in job.dense],
            order=order,
            shards=shards,
            recipe=job.recipe.model_dump() | {"calibration": job.text_name},
            text=job.text_note(),
            versions={name: version(name) for name in ("bitstack", "torch", "transformers")},
        ).write(job.folder)


def _copy_config(source: Source, folder: Path) -> None:
    """config.json with a quantization_config, and the tokenizer's files as they are."""
    config = source.config.to_dict()
    config["quantization_config"] = {"quant_method": "bitstack"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    copy_beside(source.path, folder)
