"""A container and a budget in, a transformers model that runs from the packed blocks out.

Only the blocks of the chosen prefix are read. Which levels a budget buys is `budget`'s business,
how the blocks multiply the kernels'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig

from bitstack.budget import Budget, parse_budget
from bitstack.container.manifest import DenseEntry, Manifest, StackEntry, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.download import Located, Remote, locate
from bitstack.errors import UserError
from bitstack.guard import Guard, guard_forward
from bitstack.nn import Stack, pack_model, resident_bytes, stacks
from bitstack.pages import give_back
from bitstack.resize import View, move
from bitstack.source import load_config, skeleton, tie


class Reader(Protocol):
    """Where tensors come from: a container's shards, or the journal of a run."""

    def get(self, name: str) -> Tensor: ...


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
    manifest = read_manifest(folder)
    levels = choose_levels(manifest, budget, level)
    reader = BlockReader(folder, place.remote)
    reader.require(manifest.tensors(levels), manifest.shards)
    config = load_config(folder)
    dtype = getattr(torch, manifest.dtype)
    model = assemble(config, dtype, manifest.stacks, manifest.dense, reader, levels, device=device)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    reader.close()
    give_back()
    return attach(model, place, manifest, levels)


def attach(model: Any, place: Located, manifest: Manifest, levels: list[int]) -> Any:
    """Give a filled `model` its `bitstack`, and make it safe to resize; returns it."""
    from bitstack.speculate import add_drafts  # it makes drafts with this module

    model.bitstack = Resident(place.folder, manifest, model, levels, remote=place.remote)
    guard_forward(model, model.bitstack.guard)
    if model.can_generate():
        add_drafts(model)
    return model


def check_device(device: str | torch.device) -> None:
    """UserError for a device that is unknown, not there, or holds no data."""
    try:
        holds = not torch.empty(1, device=device).is_meta
        reason = "it holds no data"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
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


def assemble(
    config: PretrainedConfig,
    dtype: torch.dtype,
    entries: Sequence[StackEntry],
    dense: Sequence[DenseEntry],
    reader: Reader,
    levels: Sequence[int],
    *,
    device: str | torch.device = "cpu",
) -> Any:
    """The model of `config` with every stack at its level and everything dense filled."""
    model: Any = skeleton(config, dtype)
    pack_model(model, [e.matrix for e in entries], [e.spec for e in entries])
    for entry in dense:
        if entry.persistent:
            fill(model, entry.name, reader.get(entry.name))
    tie(model)
    model.to(device)
    found = stacks(model)
    for stack, level in zip(entries, levels, strict=True):
        set_level(found[stack.name], stack.name, level, reader, device)
    return model.eval()


def set_level(
    stack: Any, name: str, level: int, reader: Reader, device: str | torch.device
) -> None:
    """Move one stack of a model to `level` with tensors from `reader`."""
    stack.set_level(level, lambda part: reader.get(f"{name}.{part}"), device)


def fill(model: nn.Module, name: str, value: Tensor) -> None:
    parent, _, key = name.rpartition(".")
    module = model.get_submodule(parent)
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[key] = value
