"""A skeleton into a packed model: packed modules in their places, dense tensors and blocks filled.

Checks that skeleton and container are of one model. Which levels, and what a model gets once it is
whole, is `load`'s business.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitstack.container.manifest import DenseEntry, Manifest, StackEntry
from bitstack.container.shards import Reader
from bitstack.errors import UserError
from bitstack.nn import pack_model, stacks
from bitstack.original.source import tie, widen


def assemble(
    model: Any,
    entries: Sequence[StackEntry],
    dense: Sequence[DenseEntry],
    reader: Reader,
    levels: Sequence[int],
    *,
    device: str | torch.device = "cpu",
) -> Any:
    """Pack a skeleton: every stack at its level, everything dense filled; returns it."""
    pack_model(model, [e.matrix for e in entries], [e.spec for e in entries])
    for entry in dense:
        if entry.persistent:
            fill(model, entry.name, reader.get(entry.name))
    tie(model)
    model.to(device)
    fill_stacks(model, entries, levels, reader, device)
    return model.eval()


def fill_stacks(
    model: nn.Module,
    entries: Sequence[StackEntry],
    levels: Sequence[int],
    reader: Reader,
    device: str | torch.device | None = None,
) -> None:
    """Move every stack of a packed model to its level with tensors from `reader`.

    Without `device` each goes where the places are that it reserved.
    """
    found = stacks(model)
    for entry, level in zip(entries, levels, strict=True):
        stack = found[entry.name]
        where = stack.device if device is None else device
        stack.empty()
        stack.set_level(level, parts_of(reader, entry.name), where)


def parts_of(reader: Reader, stack: str) -> Callable[[str], Tensor]:
    """What reads one stack's tensors by their names within it."""
    return lambda part: reader.get(f"{stack}.{part}")


def fill(model: nn.Module, name: str, value: Tensor) -> None:
    parent, _, key = name.rpartition(".")
    module = model.get_submodule(parent)
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[key] = value


def prepare(
    folder: Path, model: Any, manifest: Manifest, levels: Sequence[int], dtype: torch.dtype
) -> None:
    """Pack a meta model that another loader (transformers) fills, and reserve places for blocks.

    UserError where the container is not this model's.
    """
    widen(model, dtype)
    check_config(folder, model, manifest)
    pack_model(model, [e.matrix for e in manifest.stacks], [e.spec for e in manifest.stacks])
    found = stacks(model)
    for entry, level in zip(manifest.stacks, levels, strict=True):
        found[entry.name].reserve(level)


def check_config(folder: Path, model: nn.Module, manifest: Manifest) -> None:
    """UserError where the skeleton that config.json makes is not the container's model."""
    state: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found |= {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}
    held = {d.name: tuple(d.shape) for d in manifest.dense}
    for entry in manifest.stacks:
        shape = (entry.rows, entry.columns)[:: -1 if entry.transposed else 1]
        several = 1 + (entry.expert or 0)  # the last of them tells how many there are
        held[entry.parameter] = shape if entry.expert is None else (several, *shape)
    tied = {f"{entry.tied}.weight" for entry in manifest.stacks if entry.tied}
    tied |= set(model.all_tied_weights_keys)  # type: ignore[arg-type]
    for name in sorted((found.keys() | held.keys()) - tied):
        if found.get(name) != held.get(name):
            raise UserError(
                f"{folder}: the container holds {name} {_shown(held.get(name))}, but config.json "
                f"makes it {_shown(found.get(name))}: config.json is another model's; copy the "
                "container again"
            )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "not at all" if shape is None else str(shape)
