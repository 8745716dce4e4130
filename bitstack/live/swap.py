"""Moves a live model to other levels: reads what they lack, swaps, frees the rest.

Everything is read before anything changes, while forwards go on; only the swap waits for them.
Stacks that exchange all of their planes do so a few at a time, so that both kinds are never in
memory at once. Does not choose the levels; see `container.levels`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.machine.pages import give_back
from bitstack.machine.sizes import format_bytes
from bitstack.nn import Stack

if TYPE_CHECKING:
    from bitstack.live.resident import Resident

EXCHANGED = 64 << 20  # bytes of new planes that are read before the old ones are given up


@dataclass
class Change:
    """One stack, and what it will hold."""

    stack: Stack
    level: int
    tensors: dict[str, Tensor]


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
        reader = resident.reader(last)
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
