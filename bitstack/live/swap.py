"""Moves a running model to other levels: reads the missing blocks, swaps them in, frees the rest.

Everything is read before anything changes, while forwards go on; only the swap waits for them.
Stacks that exchange all their planes do so a few at a time, so that the old and the new planes of
the whole model are never in memory together. Does not choose the levels; see `container.levels`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bitstack.container.manifest import Manifest
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.live.guard import Guard
from bitstack.machine.allocator import give_back
from bitstack.machine.sizes import format_bytes
from bitstack.nn import Stack

EXCHANGE_BYTES = 64 << 20  # new planes that are read before the old ones are freed


@dataclass(eq=False)
class View:
    """A second model that runs from the lower levels of the same blocks: a draft model."""

    stacks: Sequence[Stack]
    max_levels: Sequence[int]  # level of each stack, as long as the whole model has it


class Resizable(Protocol):
    """What a swap needs of a loaded model; `live.resident.Resident` provides it."""

    manifest: Manifest
    stacks: list[Stack]  # in the manifest's order
    levels: list[int]  # level of every stack now
    views: list[View]
    guard: Guard

    def reader(self, levels: Sequence[int]) -> BlockReader: ...


@dataclass
class Change:
    """One stack, its new level and the tensors it holds there."""

    stack: Stack
    level: int
    tensors: dict[str, Tensor]


def move(resident: Resizable, levels: Sequence[int]) -> None:
    """Brings every stack to its level in `levels`.

    All stacks change in one swap, or none. Only where more than EXCHANGE_BYTES of planes are
    exchanged there are several swaps, and an error can leave the model at a size in between.

    Raises:
        UserError: Blocks cannot be read or do not fit into memory.
    """
    cuda = any(stack.device.type == "cuda" for stack in resident.stacks)
    with resident.guard.levels_lock():
        before = list(resident.levels)
        try:
            for stage in _stages(resident, levels):
                _apply(resident, stage, _changes(resident, stage, levels))
                give_back(cuda=cuda)
        except UserError as error:
            size = format_bytes(resident.manifest.budgets.resident_bytes(resident.levels))
            still = " as it was," if resident.levels == before else ""
            raise UserError(f"{error}; the model runs on{still} with {size}") from None


def _stages(resident: Resizable, levels: Sequence[int]) -> Iterator[list[int]]:
    """Yields the levels after every swap on the way to `levels`, which come last."""
    stage = list(resident.levels)
    specs = [entry.spec for entry in resident.manifest.stacks]
    # Levels of one chain share their planes. From one chain to another a stack exchanges them all.
    exchanges = [
        level not in spec.chain(now) for spec, now, level in zip(specs, stage, levels, strict=True)
    ]
    for i, level in enumerate(levels):
        if not exchanges[i]:
            stage[i] = level
    new_bytes = 0  # planes and scales that the next swap exchanges
    for i in np.flatnonzero(exchanges).tolist():
        size = specs[i].bytes()[levels[i] - 1]
        if new_bytes and new_bytes + size > EXCHANGE_BYTES:
            yield list(stage)
            new_bytes = 0
        stage[i] = levels[i]
        new_bytes += size
    if stage != list(resident.levels):
        yield stage


def _apply(resident: Resizable, levels: Sequence[int], changes: list[Change]) -> None:
    """Swaps the tensors. On return nothing holds the old ones any more."""
    before = [Change(c.stack, c.stack.level, dict(c.stack.named_buffers())) for c in changes]
    with resident.guard.no_forwards():
        try:
            for change in changes:
                change.stack.hold(change.level, change.tensors)
            resident.levels = list(levels)
        except BaseException:  # Ctrl-C
            for change in before:
                change.stack.hold(change.level, change.tensors)
            raise


@torch.inference_mode(False)  # or a block read within it could never be used for training
def _changes(
    resident: Resizable, levels: Sequence[int], last_levels: Sequence[int]
) -> list[Change]:
    """Reads what every stack of the model and of its views holds at `levels`.

    The blocks of `last_levels`, the end of the way, are downloaded before the first stage.
    """
    reader = None
    try:
        reader = resident.reader(last_levels)
        changes = [
            _change(stack, entry.name, level, reader, {})
            for stack, entry, level in zip(
                resident.stacks, resident.manifest.stacks, levels, strict=True
            )
        ]
        for view in resident.views:
            for i, (stack, max_level) in enumerate(zip(view.stacks, view.max_levels, strict=True)):
                name, level = resident.manifest.stacks[i].name, min(max_level, levels[i])
                changes.append(_change(stack, name, level, reader, changes[i].tensors))
        return [change for change in changes if change.level != change.stack.level]
    except (MemoryError, torch.OutOfMemoryError):
        needed = format_bytes(resident.manifest.budgets.resident_bytes(levels))
        raise UserError(f"no memory for {needed}") from None
    finally:
        if reader is not None:
            reader.close()


def _change(
    stack: Stack, name: str, level: int, reader: BlockReader, shared: dict[str, Tensor]
) -> Change:
    """Reads what one stack lacks at `level`; `shared` holds tensors of its matrix that another
    stack has."""
    if stack.device.type == "meta":
        raise UserError(f"{name}: the model was moved to the meta device and holds no blocks")

    def read(part: str) -> Tensor:
        return shared[part] if part in shared else reader.get(f"{name}.{part}")

    return Change(stack, level, stack.tensors(level, read, stack.device))
