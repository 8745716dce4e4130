"""Reads tensors of a container into memory of their own, for a model that is running.

Files are not mapped: one that is cut short while mapped ends the process, while read it is an
error. A safetensors file begins with a header: its length in 8 bytes, little-endian, then JSON of
dtype, shape and the offsets of every tensor's data behind it. Does not change a model; see
`live.swap`.
"""

import json
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitstack.container.budget import Budget
from bitstack.container.levels import choose_levels
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.shards import ShardReader
from bitstack.errors import UserError
from bitstack.machine.pages import empty_pages
from bitstack.original.hub_cache import Located, Remote

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit


class BlockReader(ShardReader):
    """A ShardReader for a container whose files may change at any moment."""

    def __init__(self, folder: Path, remote: Remote | None = None) -> None:
        super().__init__(folder, remote)
        self._open: dict[Path, tuple[FileIO, int, dict[str, Any]]] = {}

    def get(self, name: str) -> Tensor:
        """Returns one tensor, on the CPU.

        Raises:
            UserError: The file is gone, damaged or lacks it.
        """
        path = self.folder / self._where.get(name, "")
        if name not in self._where:
            raise UserError(f"{self.folder}: no tensor {name}; compress the model again")
        try:
            return self._read(path, name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: cannot be read ({reason}); copy the container again"
            ) from None

    def close(self) -> None:
        for file, _, _ in self._open.values():
            file.close()
        self._open.clear()
        super().close()

    def _read(self, path: Path, name: str) -> Tensor:
        if path not in self._open:
            self._open[path] = _header(path)
        file, start, header = self._open[path]
        begin, end = header[name]["data_offsets"]
        dtype, shape = _DTYPES[header[name]["dtype"]], header[name]["shape"]
        if end - begin != prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has {end - begin} bytes, which is not {shape} of {dtype}")
        data = empty_pages(end - begin)
        file.seek(start + begin)
        _fill(file, data.numpy().data, name)
        return data.view(dtype).view(shape)


def open_container(
    place: Located, budget: str | int | Budget | None, level: int | None
) -> tuple[Manifest, list[int], BlockReader]:
    """Returns a container's manifest, the level of every stack, and a reader of their tensors.

    Raises:
        UserError: A file is missing or damaged, or the budget or level cannot be had.
    """
    manifest = read_manifest(place.folder)
    levels = choose_levels(manifest, budget, level)
    reader = BlockReader(place.folder, place.remote)
    reader.require(manifest.tensors(levels), manifest.shards)
    return manifest, levels, reader


def _header(path: Path) -> tuple[FileIO, int, dict[str, Any]]:
    """Opens a file; returns it, the offset of its data and its header."""
    file = FileIO(path)
    try:
        length = int.from_bytes(file.read(8), "little")
        if length > _LARGEST_HEADER:
            raise ValueError("no safetensors header")
        text = bytearray(length)
        _fill(file, memoryview(text), "the header")
        return file, 8 + length, json.loads(text)
    except BaseException:
        file.close()
        raise


def _fill(file: FileIO, target: memoryview, what: str) -> None:
    """Reads as many bytes as `target` has; `what` they are is for the error message."""
    while len(target):
        count = file.readinto(target)
        if not count:
            raise ValueError(f"the file ends within {what}")
        target = target[count:]
