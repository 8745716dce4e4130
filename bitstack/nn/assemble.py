"""Makes a packed model of a skeleton: puts packed modules in, and fills dense tensors and blocks.

Does not make the skeleton (see `container.skeleton_of`), choose levels (see `container.levels`)
or give the finished model its `bitstack` attribute (see `live.attach`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitstack.container.entries import DenseEntry, StackEntry
from bitstack.container.manifest import Manifest
from bitstack.container.shards import Reader
from bitstack.container.skeleton_of import check_config
from bitstack.nn import pack_model, stacks
from bitstack.original.skeleton import tie, widen


def assemble(
    model: Any,
    entries: Sequence[StackEntry],
    dense: Sequence[DenseEntry],
    reader: Reader,
    levels: Sequence[int],
    *,
    device: str | torch.device = "cpu",
    cast: bool = False,
) -> Any:
    """Packs a skeleton, fills everything dense and every stack at its level, and returns it.

    Args:
        model: On the meta device, with real buffers; see `original.source.skeleton`.
        reader: Reads a tensor by its name in the container.
        levels: Of every stack, in the order of `entries`.
        cast: Whether dense tensors get the dtypes of the skeleton, or keep those of the container.
    """
    pack_model(model, [e.matrix for e in entries], [e.spec for e in entries])
    for entry in dense:
        if entry.persistent:
            fill(model, entry.name, reader.get(entry.name), cast=cast)
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
    """Moves every stack of a packed model to its level with tensors from `reader`.

    Args:
        levels: Of every stack, in the order of `entries`.
        device: None for the device of the tensors that the stack holds or has reserved.
    """
    stacks_by_name = stacks(model)
    for entry, level in zip(entries, levels, strict=True):
        stack = stacks_by_name[entry.name]
        where = stack.device if device is None else device
        stack.empty()
        stack.set_level(level, tensor_reader(reader, entry.name), where)


def tensor_reader(reader: Reader, stack: str) -> Callable[[str], Tensor]:
    """Returns a function that reads a tensor of one stack by its name within the stack."""
    return lambda name: reader.get(f"{stack}.{name}")


def fill(model: nn.Module, name: str, value: Tensor, *, cast: bool = False) -> None:
    """Puts `value` in the place of the parameter or buffer `name`, whatever device that is on.

    Args:
        cast: Give it the dtype of what it replaces.
    """
    parent, _, key = name.rpartition(".")
    module = model.get_submodule(parent)
    if cast:
        value = value.to(getattr(module, key).dtype)
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[key] = value


def prepare(
    folder: Path, model: Any, manifest: Manifest, levels: Sequence[int], dtype: torch.dtype
) -> None:
    """Packs a meta model that another loader (transformers) fills, with places for its blocks.

    Raises:
        UserError: The container is of another model.
    """
    widen(model, dtype)
    check_config(folder, model, manifest)
    pack_model(model, [e.matrix for e in manifest.stacks], [e.spec for e in manifest.stacks])
    stacks_by_name = stacks(model)
    for entry, level in zip(manifest.stacks, levels, strict=True):
        stacks_by_name[entry.name].reserve(level)
