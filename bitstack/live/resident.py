"""What a loaded model knows of its container, and its way to another budget while it runs.

How blocks are exchanged is in `swap`, how forwards and changes are kept apart in `guard`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from bitstack.container.budget import Budget
from bitstack.container.levels import choose_levels
from bitstack.container.manifest import MANIFEST, Manifest, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.live.guard import Guard
from bitstack.live.swap import move
from bitstack.nn import Stack, resident_bytes, stacks
from bitstack.original.hub_cache import Remote


@dataclass(eq=False)
class View:
    """Another model that runs from the first levels of the same blocks: a draft."""

    stacks: Sequence[Stack]
    wanted: Sequence[int]  # levels, as far as the whole model has them


@dataclass
class Resident:
    """What `model.bitstack` is: where a loaded model came from and what it holds."""

    folder: Path
    manifest: Manifest
    model: nn.Module
    levels: list[int]
    guard: Guard = field(default_factory=Guard, repr=False)
    views: list[View] = field(default_factory=list, repr=False)  # drafts that run now
    remote: Remote | None = None  # where blocks that `folder` lacks come from
    stacks: list[Stack] = field(init=False, repr=False)  # as the manifest lists them

    def __post_init__(self) -> None:
        found = stacks(self.model)
        self.stacks = [found[entry.name] for entry in self.manifest.stacks]

    def resize(self, budget: str | int | Budget | None = None) -> int:
        """Grow or shrink the live model, as `bitstack.resize` does; returns its resident bytes."""
        move(self, choose_levels(self.manifest, budget))
        return self.resident_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of all tensors the live model holds, and of what its drafts hold beside it."""
        own = {id(tensor) for tensor in self.model.buffers()}
        drafts = {id(t): t for v in self.views for s in v.stacks for t in s.buffers()}
        beside = sum(t.nbytes for key, t in drafts.items() if key not in own)
        return resident_bytes(self.model) + beside

    @property
    def bits_per_weight(self) -> float:
        """Mean bits per decomposed weight, planes and scales."""
        return self.manifest.budgets.bits_per_weight(self.levels)

    def reader(self, levels: Sequence[int]) -> BlockReader:
        """A reader of the container as it was loaded, with all blocks of `levels` on this machine.

        UserError where it is another container now, or the blocks cannot be had.
        """
        if read_manifest(self.folder) != self.manifest:
            raise UserError(
                f"{self.folder / MANIFEST}: was changed since the model was loaded; load it again"
            )
        reader = BlockReader(self.folder, self.remote)
        reader.require(self.manifest.tensors(levels), self.manifest.shards)
        return reader


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


def resident_of(model: Any) -> Resident:
    """`model.bitstack`. UserError for a model that `load` did not make."""
    found = getattr(model, "bitstack", None)
    if found is None:
        raise UserError(
            f"model {type(model).__name__}: was not loaded by bitstack.load, so it has no blocks "
            "to load or free; load a container first"
        )
    return found
