"""Holds what a loaded model knows of its container, and resizes it while it runs.

Does not exchange the blocks, see `live.swap`, and does not keep forwards and resizes apart, see
`live.guard`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from bitstack.container.budget import Budget
from bitstack.container.levels import choose_levels
from bitstack.container.manifest import MANIFEST, Manifest, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.live.guard import Guard
from bitstack.live.swap import View, move
from bitstack.nn import Stack, resident_bytes, stacks
from bitstack.original.hub_cache import Remote


@dataclass
class Resident:
    """`model.bitstack`: the container of a loaded model, and what of it is in memory."""

    folder: Path  # of the container
    manifest: Manifest
    model: nn.Module
    levels: list[int]  # level of every stack, in the manifest's order
    guard: Guard = field(default_factory=Guard, repr=False)
    views: list[View] = field(default_factory=list, repr=False)  # draft models that run now
    remote: Remote | None = None  # the Hub, for blocks that are not in `folder`
    verify: bool = True  # whether checksums are compared
    stacks: list[Stack] = field(init=False, repr=False)  # in the manifest's order

    def __post_init__(self) -> None:
        stacks_by_name = stacks(self.model)
        self.stacks = [stacks_by_name[entry.name] for entry in self.manifest.stacks]

    def resize(self, budget: str | int | Budget | None = None) -> int:
        """Grows or shrinks the model as `bitstack.resize` does; returns its resident bytes."""
        move(self, choose_levels(self.manifest, budget))
        return self.resident_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of all tensors of the model, and of what its draft models hold besides."""
        own = {id(tensor) for tensor in self.model.buffers()}
        drafts = {id(t): t for v in self.views for s in v.stacks for t in s.buffers()}
        extra = sum(t.nbytes for key, t in drafts.items() if key not in own)
        return resident_bytes(self.model) + extra

    @property
    def bits_per_weight(self) -> float:
        """Mean bits of a decomposed weight, planes and scales."""
        return self.manifest.budgets.bits_per_weight(self.levels)

    def reader(self, levels: Sequence[int]) -> BlockReader:
        """Opens the container to read the blocks of `levels`, which are downloaded if missing.

        Raises:
            UserError: The container was changed since the model was loaded, or blocks are missing.
        """
        if read_manifest(self.folder) != self.manifest:
            raise UserError(
                f"{self.folder / MANIFEST}: was changed since the model was loaded; load it again"
            )
        reader = BlockReader(self.folder, self.remote, manifest=self.manifest, verify=self.verify)
        reader.require(self.manifest.tensors(levels))
        return reader


def resize(model: nn.Module, budget: str | int | Budget | None = None) -> int:
    """Moves a loaded model to another budget while it runs.

    Safe while other threads run forwards: each forward runs at one size from start to end. Only a
    model compiled whole by torch.compile takes no lock: resize it between its calls.

    Old and new blocks are in memory together until the swap, so growing needs the larger model
    plus the small scale sets it replaces, and shrinking a few scale sets more than now. Where a
    matrix goes from its coarse planes to its fine ones or back, it exchanges them all: 64 MiB at a
    time, and forwards between two such swaps run at a size in between.

    Args:
        model: A model of `bitstack.load` or of transformers' `from_pretrained`.
        budget: As in `bitstack.load`; None, or more than there is, loads all blocks.

    Returns:
        Bytes of the whole resident model afterwards, at most the budget.

    Raises:
        UserError: The budget is not understood or below the smallest model, the container was
            changed or deleted, memory does not suffice, the model holds no blocks, or the call
            comes from within a forward of the model. The model then runs on as it was or, between
            two exchanges of planes, at the size it has reached.

    Example:
        >>> import bitstack
        >>> model = bitstack.load("my-container")
        >>> smaller = bitstack.resize(model, "25%")
        >>> larger = bitstack.resize(model)
        >>> smaller < larger == model.bitstack.resident_bytes
        True
    """
    return resident_of(model).resize(budget)


def resident_of(model: nn.Module) -> Resident:
    """Returns `model.bitstack`.

    Raises:
        UserError: The model was not loaded by bitstack.
    """
    resident = getattr(model, "bitstack", None)
    if not isinstance(resident, Resident):
        raise UserError(
            f"model {type(model).__name__}: was not loaded by bitstack.load, so it has no blocks "
            "to load or free; load a container first"
        )
    return resident
