"""Grows and shrinks a model while it runs: reads what its new levels lack, swaps, frees the rest.

Everything is read before anything changes, while forwards go on; only the swap waits for them.
Stacks that exchange all of their planes do so a few at a time, so that both kinds are never in
memory at once. Which levels a budget buys is `budget`'s business, what a level needs that of `nn`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bitstack.container.budget import Budget, format_bytes
from bitstack.container.manifest import MANIFEST, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.machine.pages import give_back
from bitstack.nn import Stack

if TYPE_CHECKING:
    from bitstack.live.loading import Resident


EXCHANGED = 64 << 20  # bytes of new planes that are read before the old ones are given up


@dataclass(eq=False)
class View:
    """Another model that runs from the first levels of the same blocks: a draft."""

    stacks: Sequence[Stack]
    wanted: Sequence[int]  # levels, as far as the whole model has them


@dataclass
class Change:
    """One stack, and what it will hold."""

    stack: Stack
    level: int
    tensors: dict[str, Tensor]


def resize(model: Any, budget: str | int | Budget | None = None) -> int:
    """Move a model of `load` to `budget` while it runs; returns its resident bytes.

    Budgets are those of `load` (None, or more than there is: everything). Safe between two
    forwards of other threads: a forward runs at one size from start to end, but one that was
    compiled whole (torch.compile) holds no lock, so resize such a model between its calls. Old
    and new blocks are both in memory until the swap: growing takes the larger model and the scale
    sets it replaces, shrinking a few scale sets more than now. Where a stack goes from its nested
    planes to its finer ones or back, all of them are exchanged: 64 MiB of them at a time, forwards
    between two such swaps run at a size in between.

    UserError for a budget below the floor, a container that was changed or deleted, too little
    memory, a model that has no blocks (not from `load`, or moved to the meta device), and a call
    from within a forward. The model then runs on as it was or, if planes were being exchanged, as
    far as it had come.
    """
    return resident_of(model).resize(budget)


def resident_of(model: Any) -> "Resident":
    """`model.bitstack`. UserError for a model that `load` did not make."""
    found = getattr(model, "bitstack", None)
    if found is None:
        raise UserError(
            f"model {type(model).__name__}: was not loaded by bitstack.load, so it has no blocks "
            "to load or free; load a container first"
        )
    return found


def move(resident: "Resident", levels: Sequence[int]) -> None:
    """Bring every stack to its level, all of them or, with a UserError, none; with more than
    EXCHANGED bytes of planes to exchange, as many as it comes to."""
    cuda = any(stack.device.type == "cuda" for stack in resident.stacks)
    with resident.guard.turn():
        before = list(resident.levels)
        try:
            for part in _parts(resident, levels):
                _apply(resident, part, _changes(resident, part, levels))
                give_back(cuda=cuda)
        except UserError as error:
            size = format_bytes(resident.manifest.budgets.resident_bytes(resident.levels))
            still = " as it was," if resident.levels == before else ""
            raise UserError(f"{error}; the model runs on{still} with {size}") from None


def _parts(resident: "Resident", levels: Sequence[int]) -> Iterator[list[int]]:
    """Levels on the way to `levels`, the last of them these: all stacks at once, but those that
    exchange their planes a few at a time."""
    now, held = list(resident.levels), 0
    specs = [entry.spec for entry in resident.manifest.stacks]
    crossing = [
        level not in spec.chain(own) for spec, own, level in zip(specs, now, levels, strict=True)
    ]
    now = [own if crosses else new for own, new, crosses in zip(now, levels, crossing, strict=True)]
    for i in np.flatnonzero(crossing).tolist():
        size = specs[i].bytes()[levels[i] - 1]
        if held and held + size > EXCHANGED:
            yield list(now)
            held = 0
        now[i], held = levels[i], held + size
    if now != list(resident.levels):
        yield now


def _apply(resident: "Resident", levels: Sequence[int], changes: list[Change]) -> None:
    """The swap. On return nothing holds the old tensors any more."""
    before = [Change(c.stack, c.stack.level, dict(c.stack.named_buffers())) for c in changes]
    with resident.guard.change():
        try:
            for change in changes:
                change.stack.hold(change.level, change.tensors)
            resident.levels = list(levels)
        except BaseException:  # Ctrl-C
            for change in before:
                change.stack.hold(change.level, change.tensors)
            raise


@torch.inference_mode(False)  # or a block read within it could never be used for training
def _changes(resident: "Resident", levels: Sequence[int], last: Sequence[int]) -> list[Change]:
    """What every stack of the model and of its views will hold; read here. The blocks of `last`,
    to which `levels` are on the way, are known to be there."""
    reader = None
    try:
        reader = reader_of(resident, last)
        found = [
            _change(stack, entry.name, level, reader, {})
            for stack, entry, level in zip(
                resident.stacks, resident.manifest.stacks, levels, strict=True
            )
        ]
        for view in resident.views:
            for i, (stack, wanted) in enumerate(zip(view.stacks, view.wanted, strict=True)):
                name, level = resident.manifest.stacks[i].name, min(wanted, levels[i])
                found.append(_change(stack, name, level, reader, found[i].tensors))
        return [change for change in found if change.level != change.stack.level]
    except (MemoryError, torch.OutOfMemoryError):
        needed = format_bytes(resident.manifest.budgets.resident_bytes(levels))
        raise UserError(f"no memory for {needed}") from None
    finally:
        if reader is not None:
            reader.close()


def _change(
    stack: Stack, name: str, level: int, reader: BlockReader, others: dict[str, Tensor]
) -> Change:
    """`others` has tensors of the same matrix that another stack holds: shared, not read."""
    if stack.device.type == "meta":
        raise UserError(f"{name}: the model was moved to the meta device and holds no blocks")
    specs = {tensor.name: tensor for tensor in stack.spec.resident(level)}

    def read(part: str) -> Tensor:
        if part in others:
            return others[part]
        tensor = reader.get(f"{name}.{part}")
        if (tensor.dtype, tensor.shape) != (specs[part].dtype, specs[part].shape):
            raise UserError(
                f"{reader.folder}: {name}.{part} is {list(tensor.shape)} of {tensor.dtype} now, "
                "another container than was loaded: load it again"
            )
        return tensor

    return Change(stack, level, stack.tensors(level, read, stack.device))


def reader_of(resident: "Resident", levels: Sequence[int]) -> BlockReader:
    """A reader of the container as it was loaded, with all blocks of `levels` on this machine.

    UserError where it is another container now, or the blocks cannot be had.
    """
    folder, manifest = resident.folder, resident.manifest
    if read_manifest(folder) != manifest:
        raise UserError(
            f"{folder / MANIFEST}: was changed since the model was loaded; load it again"
        )
    reader = BlockReader(folder, resident.remote)
    reader.require(manifest.tensors(levels), manifest.shards)
    return reader
