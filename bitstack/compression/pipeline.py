"""Runs the pipeline: model folder in, container out, one decoder layer in memory at a time.

Calls the stages in their order: inputs, decompose (which calibrates), tune, order, container. Holds
no algorithm; see `compression.decompose_stage`, `tune_stage` and `order_stage`.
"""

import copy
import logging
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

from bitstack.compression.decompose_stage import decompose_matrices
from bitstack.compression.job import Job, open_job
from bitstack.compression.order_stage import choose_order
from bitstack.compression.tune_stage import tune
from bitstack.container.blocks import tensor_order
from bitstack.container.entries import DenseEntry
from bitstack.container.kv_cache import kv_cache
from bitstack.container.making import Making, write_making
from bitstack.container.manifest import FOLDER, MANIFEST, Manifest
from bitstack.container.shards import write_shards
from bitstack.container.small_files import RECIPE, sums_of
from bitstack.machine.allocator import freed_memory_kept
from bitstack.machine.durations import seconds_of
from bitstack.machine.files import disk_errors, sync
from bitstack.machine.folder_lock import FolderLock
from bitstack.machine.workers import open_workers
from bitstack.original.hub_cache import locate
from bitstack.original.model_limits import positions
from bitstack.original.side_files import copy_beside, write_config
from bitstack.original.source import Source
from bitstack.recipe import Recipe, load_recipe

_log = logging.getLogger(__name__)


def compress(
    model: str | Path,
    output: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    gguf_file: str | None = None,
    progress: bool = False,
    time: str | float | None = None,
    **fields: Any,
) -> Path:
    """Compresses a model into a container, once for all memory budgets.

    The container holds every matrix as blocks of one bit per weight, sorted by what each is worth.
    One decoder layer of the original is in memory at a time. An interrupted run goes on where it
    stopped when it is called again in the same way. The processes of `torchrun` share a run; the
    container is the same as from one process with as many threads as each of them has.

    Args:
        model: Folder of a Hugging Face causal language model, a GGUF, or the name of a model on the
            Hub.
        output: Folder to write the container to; a new or empty one, or that of the interrupted
            run.
        recipe: Name of a recipe ("default", "fast", "best" or "paper"), a YAML file or a `Recipe`;
            None for "default".
        gguf_file: Name of the GGUF to read, where `model` is a folder or a name on the Hub.
        progress: Show progress bars.
        time: How long the run may take on this machine: seconds, or a text such as "20m" or
            "1h30m". Text, search and tuning of the recipe are cut to what fits; the plan is logged
            before the run starts, and at the end what more time would have bought. An interrupted
            run that goes on starts its clock anew.
        fields: Fields of the recipe to change. Most useful is `calibration`: a text file, a folder
            of text files, FILE.jsonl or hf:DATASET, of the kind the model is used on. Without it a
            general text is taken, which is shipped.

    Returns:
        Path of the container, which is `output`.

    Raises:
        UserError: The model, the recipe, the text or the output folder cannot be used. All that
            can be checked before the run is checked before anything is written.

    Example:
        >>> import bitstack
        >>> container = bitstack.compress(
        ...     "my-model", "new-container", recipe="fast", calibration="text.txt"
        ... )
        >>> model = bitstack.load(container, budget="50%")
    """
    started, resolved, seconds = monotonic(), load_recipe(recipe, **fields), seconds_of(time)
    workers = open_workers()
    folder = Path(output)
    lock = FolderLock(folder / FOLDER) if workers.rank == 0 else nullcontext()
    with workers.working(), freed_memory_kept(), lock as held:
        place = locate(model, gguf_file=gguf_file) if gguf_file else model
        shown = progress and not workers.rank
        job = open_job(place, folder, resolved, shown, workers, seconds, held)
        if job:
            _make(job, _making(job, started))
        workers.leave()
    if job and job.clock:
        _log.warning("\n".join(job.clock.closing_lines()))
    return folder


def _making(job: Job, started: float) -> Callable[[], Making]:
    """Returns what tells, when it is called, how long the run has taken since `started`."""
    continued = bool(job.journal.notes)  # those of an interrupted run
    return lambda: Making(monotonic() - started, job.workers.count, continued)


def _make(job: Job, making: Callable[[], Making]) -> None:
    """Makes the container; a worker other than the first helps with the matrices."""
    decompose_matrices(job)
    if job.workers.rank == 0:
        _finish(job, making)
        job.workers.publish("finished", "")
    else:
        job.workers.receive("finished")


def _finish(job: Job, making: Callable[[], Making]) -> None:
    """Tunes, orders and writes the shards: one worker does it alone."""
    _keep_buffers(job)
    if job.tunes:
        tune(job)
    _write_container(job, choose_order(job), making)
    job.journal.remove()


def _keep_buffers(job: Job) -> None:
    """Writes stored buffers (a router's bias) to the journal, all at once: they are no parameters
    of a layer."""
    buffers = dict(job.source.model.named_buffers())
    kept = {name: buffers[name] for name in job.stored_dense if name in buffers}
    if kept:
        job.journal.put("dense-buffers", kept, {})


def _write_container(job: Job, order: list[int], making: Callable[[], Making]) -> None:
    """Writes the shards, then the manifest, which makes the container whole."""
    specs = {e.name: e.spec for e in job.stacks}
    names = list(tensor_order(job.stored_dense, specs, order))
    floor = len(job.stored_dense) + sum(len(spec.stored(1)) for spec in specs.values())
    with disk_errors(job.folder / MANIFEST):
        shards = write_shards(
            job.folder, job.journal, names, job.stored_bytes,
            floor=floor, size=job.recipe.shard_size, guard=job.stacks[0].parameter,
        )  # fmt: skip
        _copy_config(job.source, job.folder)
        job.recipe.write(job.folder / RECIPE, job.recipe_calibration)
        write_making(job.folder, making())
        _sync_all(job.folder)
        Manifest(
            base_model=job.source.name,
            original_bytes=job.source.bytes,
            dtype=str(job.source.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            stacks=job.stacks,
            dense=[DenseEntry.of(d) for d in job.dense],
            order=order,
            shards=shards,
            recipe=job.recipe.model_dump() | {"calibration": job.text_name},
            text=job.text_record(),
            versions={name: version(name) for name in ("bitstack", "torch", "transformers")},
            positions=positions(job.source.model),
            kv_cache=kv_cache(job.source.model),
            files=sums_of(job.folder),
        ).write(job.folder)


def _sync_all(folder: Path) -> None:
    """Waits until all files are on the disk, before the manifest says that they are there."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if FOLDER not in path.relative_to(folder).parts:
            sync(path)


def _copy_config(source: Source, folder: Path) -> None:
    """Writes config.json with a quantization_config, and the tokenizer's files as they are."""
    config = copy.deepcopy(source.config)
    config.quantization_config = {"quant_method": "bitstack"}
    write_config(config, folder)
    copy_beside(source.path, folder)
