"""Writes the safetensors files of a container in universal order, with their checksums.

The floor (everything dense and level 1 of every stack) comes first, then the blocks as the order
names them, so any prefix of the shards that holds the floor is a valid smaller model. Does not
read them; see `container.reading`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from bitstack.container import checksums
from bitstack.container.entries import ShardEntry
from bitstack.container.manifest import INDEX
from bitstack.machine.files import disk_errors, publish

SHARDS = 32  # how many a container is cut into, between these sizes
SMALLEST, LARGEST = 1 << 20, 1 << 30


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
    sums: dict[str, str] = {}  # of every tensor, in the order in which they are written

    def read(some: list[str]) -> Iterator[tuple[str, Tensor]]:
        for name in some:
            tensor = source.get(name)
            sums[name] = tensor_sum(tensor)
            yield name, tensor

    if guard is not None:
        sums[guard] = checksums.of_bytes(b"")
    first = [] if guard is None else [(guard, torch.empty(0))]
    least, more = chain(first, read(names[:floor])), read(names[floor:])
    groups = chain(grouped(least, size), grouped(more, size))
    weight_map = write_files(folder, groups, "model.bitstack")
    write_index(folder / INDEX, total, weight_map)
    held: dict[str, list[str]] = {file: [] for file in weight_map.values()}
    for name, file in weight_map.items():
        held[file].append(sums[name])
    return [_entry(folder / file, own) for file, own in held.items()]


def _entry(path: Path, sums: list[str]) -> ShardEntry:
    return ShardEntry(
        file=path.name, bytes=path.stat().st_size, sha256=sha256(path), checksums=sums
    )


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


def tensor_sum(tensor: Tensor) -> str:
    """Returns the checksum of a tensor's bytes, as they lie in a file."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return checksums.of_bytes(flat.view(torch.uint8).numpy())


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
