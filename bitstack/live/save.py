"""Gives a loaded model its `save_pretrained`, which writes a container of what the model holds now.

Every stack keeps the levels up to its own, so the new container loads at the same size, and into
smaller budgets too. Does not write dense weights; see `live.dense_export`.
"""

from collections import Counter
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from bitstack.container.blocks import tensor_order
from bitstack.container.entries import DenseEntry
from bitstack.container.kv_cache import kv_cache
from bitstack.container.manifest import FORMAT, MANIFEST, Manifest
from bitstack.container.reading import BlockReader
from bitstack.container.shards import write_shards
from bitstack.container.small_files import sums_of
from bitstack.errors import UserError
from bitstack.live.arguments import VARIANT
from bitstack.live.resident import Resident, resident_of
from bitstack.machine.files import disk_errors
from bitstack.nn.modules import PackedEmbedding, PartedEmbedding
from bitstack.original.model_limits import positions
from bitstack.original.side_files import config_of, write_config
from bitstack.original.skeleton import skeleton


def add_save(model: Any) -> None:
    """Lets `model.save_pretrained` write a container."""
    model.save_pretrained = update_wrapper(partial(save_pretrained, model), model.save_pretrained)


def save_pretrained(model: Any, save_directory: str | Path, **kwargs: Any) -> None:
    """Writes the model as it is now, with its config and generation config, as a container.

    Dense tensors are those of the model, in their dtype. Scale sets of lower levels are read from
    the container it was loaded from. A model with adapters is left to transformers, which saves
    the adapters alone.

    Args:
        model: A loaded model.
        save_directory: Folder to write to; it holds no container yet.
        kwargs: As in transformers; `is_main_process` is followed.

    Raises:
        UserError: The folder holds a container, `variant` is not "bitstack", `push_to_hub` is set,
            or the container that the model was loaded from is gone.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        type(model).save_pretrained(model, save_directory, **kwargs)
        return
    folder = Path(save_directory)
    _check(folder, kwargs)
    if not kwargs.get("is_main_process", True):
        return
    resident = resident_of(model)
    with resident.guard.levels_lock(), disk_errors(folder / MANIFEST):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, model, resident)


def _check(folder: Path, kwargs: dict[str, Any]) -> None:
    if kwargs.get("push_to_hub"):
        raise UserError("push_to_hub: save the model first, then call `compress-model push`")
    if kwargs.get("variant") not in (None, VARIANT):
        raise UserError(
            f"variant {kwargs['variant']}: a container is always {VARIANT}; leave it out"
        )
    if folder.is_file():
        raise UserError(f"{folder}: is a file; name a folder")
    if (folder / MANIFEST).exists():
        raise UserError(f"{folder}: already holds a container; name another folder")


def _write(folder: Path, model: Any, resident: Resident) -> None:
    """Writes shards, config, and the manifest last: a folder without it does not load."""
    levels = resident.levels
    tensors = _ModelReader(model, resident)
    kept = [e.cut(level) for e, level in zip(resident.manifest.stacks, levels, strict=True)]
    dense = [_dense(entry, tensors.own[entry.name]) for entry in resident.manifest.dense]
    order = _order(resident.manifest.order, levels)
    specs = {entry.name: entry.spec for entry in kept}
    stored_dense = [d.name for d in dense if d.persistent]
    names = list(tensor_order(stored_dense, specs, order))
    floor = len(stored_dense) + sum(len(spec.stored(1)) for spec in specs.values())
    try:
        stored = sum(t.bytes for spec in specs.values() for t in spec.all())
        total = stored + sum(d.bytes for d in dense if d.persistent)
        guard = resident.manifest.guard
        shards = write_shards(folder, tensors, names, total, floor=floor, guard=guard)
    finally:
        tensors.reader.close()
    dtype = str(resident.stacks[0].dtype).removeprefix("torch.")
    config = config_of(model, resident.folder, dtype)
    _write_config(folder, model, config)
    outline = skeleton(config, resident.stacks[0].dtype)
    changed: dict[str, Any] = {
        "stacks": kept, "dense": dense, "order": order, "shards": shards, "dtype": dtype,
        "format": FORMAT, "positions": positions(outline), "kv_cache": kv_cache(outline),
        "files": sums_of(folder),
    }  # fmt: skip
    same = resident.manifest.model_dump(exclude={*changed, "losses"})
    Manifest(**same | changed).write(folder)


def _write_config(folder: Path, model: Any, config: PretrainedConfig) -> None:
    write_config(config, folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _order(order: list[int], levels: list[int]) -> list[int]:
    """Returns the steps of `order` up to `levels`; each step raises one stack by one level."""
    steps: Counter[int] = Counter()
    kept = []
    for stack in order:
        steps[stack] += 1
        if steps[stack] < levels[stack]:  # the first step leads to level 2
            kept.append(stack)
    return kept


def _dense(entry: DenseEntry, tensor: Tensor) -> DenseEntry:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return entry.model_copy(update={"dtype": dtype, "bytes": tensor.nbytes})


class _ModelReader:
    """A reader that gives the model's own tensors where it has them, and reads the others."""

    def __init__(self, model: Any, resident: Resident) -> None:
        self.own: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        for name, module in model.named_modules():
            if (
                isinstance(module, PackedEmbedding | PartedEmbedding)
                and module.original is not None
            ):
                self.own |= {f"{name}.{key}": t for key, t in module.original.named_buffers()}
        self.reader: BlockReader = resident.reader(resident.levels)

    def get(self, name: str) -> Tensor:
        tensor = self.own[name] if name in self.own else self.reader.get(name)
        return tensor.detach().cpu().contiguous()
