"""Writes the safetensors files of a container in universal order, and reads them by tensor.

The floor (everything dense and level 1 of every stack) comes first, then the blocks as the order
names them, so any prefix of the shards that holds the floor is a valid smaller model. Does not
choose which tensors are read; see `container.levels`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitstack.container.blocks import StackSpec
from bitstack.container.manifest import INDEX, ShardEntry
from bitstack.errors import UserError
from bitstack.machine.files import disk_errors, publish
from bitstack.original.hub_cache import Remote

SHARDS = 32  # how many a container is cut into, between these sizes
SMALLEST, LARGEST = 1 << 20, 1 << 30


def tensor_order(dense: list[str], stacks: dict[str, StackSpec], order: list[int]) -> Iterator[str]:
    """Yields the names of all stored tensors, floor first, then in universal order."""
    yield from dense
    names = list(stacks)
    level = dict.fromkeys(names, 1)
    for name in names:
        yield from (f"{name}.{t.name}" for t in stacks[name].stored(1))
    for index in order:
        name = names[index]
        level[name] += 1
        yield from (f"{name}.{t.name}" for t in stacks[name].stored(level[name]))


class Reader(Protocol):
    """Where tensors come from by name: a container's shards, the journal of a run, a live model."""

    def get(self, name: str) -> Tensor: ...


def write_shards(
    folder: Path,
    source: Reader,
    names: list[str],
    total: int,
    *,
    floor: int = 0,
    size: int = 0,
    guard: str | None = None,
) -> list[ShardEntry]:
    """Copies the tensors `names` from `source` into shards, in order, and writes their index.

    Args:
        total: Bytes of all tensors, about.
        floor: How many of the names belong to the floor; a shard ends behind them, so that the
            smallest model downloads no other tensor.
        size: Most bytes of a shard; 0 for a share of the total.
        guard: Name of an empty tensor to write before all others; see `Manifest.guard`.

    Raises:
        UserError: The disk refused a write.
    """
    size = size or min(max(total // SHARDS, SMALLEST), LARGEST)
    first = [] if guard is None else [(guard, torch.empty(0))]
    least = chain(first, ((name, source.get(name)) for name in names[:floor]))
    more = ((name, source.get(name)) for name in names[floor:])
    groups = chain(grouped(least, size), grouped(more, size))
    weight_map = write_files(folder, groups, "model.bitstack")
    write_index(folder / INDEX, total, weight_map)
    paths = [folder / file for file in dict.fromkeys(weight_map.values())]
    return [
        ShardEntry(file=path.name, bytes=path.stat().st_size, sha256=_sha256(path))
        for path in paths
    ]


def write_files(folder: Path, groups: Iterable[dict[str, Tensor]], stem: str) -> dict[str, str]:
    """Writes each group of named tensors to a file, `STEM-00001-of-0000N.safetensors`.

    At most one group is in memory. Returns the file name of every tensor.

    Raises:
        UserError: The disk refused a write.
    """
    parts: list[tuple[Path, list[str]]] = []
    for group in groups:
        part = folder / f".part-{len(parts):05d}"
        with disk_errors(part):
            save_file(group, part, {"format": "pt"})
        parts.append((part, list(group)))
    where: dict[str, str] = {}
    for i, (part, names) in enumerate(parts):
        file = f"{stem}-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        with disk_errors(part):
            publish(part, folder / file)
        where |= dict.fromkeys(names, file)
    return where


def write_index(path: Path, total: int, weight_map: dict[str, str]) -> None:
    """Writes the index of sharded safetensors files: which file holds which tensor."""
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(index, indent=1))
    publish(partial, path)


class ShardReader:
    """Reads tensors of a finished container by name; opens a file when it is first needed.

    Files that `folder` lacks come from `remote`, where there is one.
    """

    def __init__(self, folder: Path, remote: Remote | None = None) -> None:
        self.folder = folder
        self.remote = remote
        try:
            self._where: dict[str, str] = dict(  # file of every tensor
                json.loads((folder / INDEX).read_text())["weight_map"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{folder / INDEX}: missing or damaged; copy the container again or compress the "
                "model again"
            ) from None
        self._files: dict[Path, safe_open] = {}

    def require(self, names: Iterable[str], shards: Sequence[ShardEntry]) -> None:
        """Makes sure that those of `shards` that hold one of `names` are here and whole.

        The others may be missing: a prefix of the shards is a smaller model.

        Raises:
            UserError: One is missing or of another size; the message names the first.
        """
        needed = self.holding(names, shards)
        missing = [shard.file for shard in needed if not (self.folder / shard.file).is_file()]
        if self.remote and missing:
            self.remote.fetch(missing)
        for shard in needed:
            path = self.folder / shard.file
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                state = "missing" if size is None else f"{size} bytes"
                raise UserError(
                    f"{path}: {state}, but {shard.bytes} bytes are needed for this budget; copy "
                    "the file again, or give a smaller budget if it was left out on purpose"
                )

    def holding(self, names: Iterable[str], shards: Sequence[ShardEntry]) -> list[ShardEntry]:
        """Returns those of `shards` that hold one of `names`."""
        held = {self._where.get(name) for name in names}
        return [shard for shard in shards if shard.file in held]

    def get(self, name: str) -> Tensor:
        """Returns one tensor, on the CPU.

        Raises:
            UserError: The file is gone, damaged or lacks it.
        """
        file = self._where.get(name)
        if file is None:
            raise UserError(f"{self.folder}: no tensor {name}; compress the model again")
        path = self.folder / file
        try:
            if path not in self._files:
                self._files[path] = safe_open(path, framework="pt")
            # A copy: a view would keep the whole file mapped and its pages resident.
            return self._files[path].get_tensor(name).clone()
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}: cannot be read ({reason}); copy the container again"
            ) from None

    def close(self) -> None:
        self._files.clear()


def grouped(tensors: Iterable[tuple[str, Tensor]], size: int) -> Iterator[dict[str, Tensor]]:
    """Yields named tensors in groups of at most `size` bytes, or of one larger tensor."""
    group: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors:
        if group and held + tensor.nbytes > size:
            yield group
            group, held = {}, 0
        group[name] = tensor
        held += tensor.nbytes
    if group:
        yield group


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path, shards: list[ShardEntry]) -> None:
    """Compares the SHA-256 of every shard with the manifest's.

    Raises:
        UserError: A shard is missing or differs; the message names the first.
    """
    for shard in shards:
        if not (folder / shard.file).is_file():
            raise UserError(f"{folder / shard.file}: missing; copy the container again")
        if _sha256(folder / shard.file) != shard.sha256:
            raise UserError(
                f"{folder / shard.file}: its SHA-256 is not the one in bitstack.json; copy the "
                "container again"
            )
