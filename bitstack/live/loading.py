"""A container and a budget in, a transformers model that runs from the packed blocks out.

Only the blocks of the chosen prefix are read. Which levels a budget buys is `budget`'s business,
how the blocks multiply the kernels'.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from bitstack.container.budget import Budget, parse_budget
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.live.guard import Guard, guard_forward
from bitstack.live.resident import View, move
from bitstack.machine.pages import give_back
from bitstack.nn import Stack, resident_bytes, stacks
from bitstack.nn.assemble import assemble, check_config
from bitstack.original.hub_cache import Located, Remote, locate
from bitstack.original.source import load_config, skeleton


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


def load(
    path: str | Path | Located,
    budget: str | int | Budget | None = None,
    *,
    level: int | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | bool | None = None,
) -> Any:
    """Load a container into `budget` (`800MB`, `50%`, `2.5bpw`, bytes; None: all there is).

    Returns the transformers model of the container's config; `model.bitstack` tells its levels,
    bytes and bits per weight, and resizes the model while it runs. Its `generate` takes a
    `draft_budget` (see `speculate`). With `level` every stack is at that level instead.

    `path` is a folder or `owner/name` on the Hub, at a `revision` if one is given, with `token` as
    huggingface_hub takes it. From there only the shards come that hold these blocks; a later
    larger budget, here or of `resize`, downloads the rest. UserError for a broken container, a
    budget below the floor, a device that cannot be used, and what the Hub does not give.
    """
    check_device(device)
    place = locate(path, revision=revision, token=token)
    folder = place.folder
    manifest, levels, reader = opened(place, budget, level)
    dtype = getattr(torch, manifest.dtype)
    model: Any = skeleton(load_config(folder), dtype)
    check_config(folder, model, manifest)
    assemble(model, manifest.stacks, manifest.dense, reader, levels, device=device)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    reader.close()
    give_back()
    return attach(model, place, manifest, levels)


def opened(
    place: Located, budget: str | int | Budget | None, level: int | None
) -> tuple[Manifest, list[int], BlockReader]:
    """A container's manifest, the level of every stack, and a reader of what they need.

    UserError for what is missing, damaged or cannot be bought.
    """
    manifest = read_manifest(place.folder)
    levels = choose_levels(manifest, budget, level)
    reader = BlockReader(place.folder, place.remote)
    reader.require(manifest.tensors(levels), manifest.shards)
    return manifest, levels, reader


def attach(model: Any, place: Located, manifest: Manifest, levels: list[int]) -> Any:
    """Give a filled `model` its `bitstack`, and make it safe to resize and to save; returns it."""
    from bitstack.live.draft import add_drafts  # it makes drafts with this module
    from bitstack.live.quantizer import mark  # it, too, calls this function
    from bitstack.live.save import add_save

    model.bitstack = Resident(place.folder, manifest, model, levels, remote=place.remote)
    guard_forward(model, model.bitstack.guard)
    if model.can_generate():
        add_drafts(model)
    add_save(model)
    mark(model)
    return model


def check_device(device: str | torch.device) -> None:
    """UserError for a device that is unknown, not there, or holds no data."""
    try:
        holds = not torch.empty(1, device=device).is_meta
        reason = "it holds no data"
    except (RuntimeError, AssertionError) as error:
        holds, reason = False, str(error).splitlines()[0]
    if not holds:
        raise UserError(f"device {device}: cannot be used ({reason}); use cpu, or cuda if present")


def choose_levels(
    manifest: Manifest, budget: str | int | Budget | None, level: int | None = None
) -> list[int]:
    """The level of every stack for a budget, or for one level everywhere."""
    budgets = manifest.budgets
    if level is not None:
        if budget is not None:
            raise UserError("give a budget or a level, not both")
        return budgets.uniform(level)[0]
    if budget is None:
        return budgets.levels(budgets.total_bytes)[0]
    return budgets.levels(budget_bytes(manifest, budget))[0]


def budget_bytes(manifest: Manifest, budget: str | int | Budget) -> int:
    """A budget in bytes of this container's resident model."""
    asked = budget if isinstance(budget, Budget) else parse_budget(budget)
    return asked.to_bytes(
        original_bytes=manifest.original_bytes,
        fixed_bytes=manifest.fixed_bytes,
        weights=manifest.weights,
    )
