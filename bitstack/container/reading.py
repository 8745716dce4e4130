"""Reads tensors of a container into memory of their own, and looks at each before it is used.

A tensor has the dtype and shape of the manifest, the checksum that was written, and values that a
kernel can take. Files are not mapped: one that is cut short while mapped ends the process, while
read it is an error. Does not change a model; see `live.swap`.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from bitstack.container.blocks import TensorSpec
from bitstack.container.budget import Budget
from bitstack.container.checksums import Digest
from bitstack.container.entries import ShardEntry
from bitstack.container.levels import choose_levels
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.placement import Placed, place_tensors
from bitstack.container.shard_header import Place, read_header
from bitstack.errors import UserError
from bitstack.machine.json_file import reason_of
from bitstack.machine.pages import empty_pages
from bitstack.machine.plain_files import open_plain, plain_file, read_into
from bitstack.original.hub_cache import Located, Remote


@dataclass
class _Opened:
    """An open file and the places of its tensors."""

    file: FileIO
    places: dict[str, Place]


class BlockReader:
    """Reads tensors by name from a container whose files may change at any moment.

    Files that `folder` lacks come from `remote`, where there is one. With `verify` False the
    checksums are not looked at; all other checks are made.
    """

    def __init__(
        self,
        folder: Path,
        remote: Remote | None = None,
        *,
        manifest: Manifest | None = None,
        verify: bool = True,
    ) -> None:
        self.folder, self.remote, self.verify = folder, remote, verify
        self.manifest = read_manifest(folder) if manifest is None else manifest
        self.placed: dict[str, Placed] = place_tensors(folder, self.manifest)
        self._names: dict[str, list[str]] = {}  # of the tensors of every file
        for name, placed in self.placed.items():
            self._names.setdefault(placed.shard.file, []).append(name)
        self._open: dict[Path, _Opened] = {}

    def require(self, names: Iterable[str]) -> None:
        """Makes sure that the files that hold one of `names` are here and whole.

        The others may be missing: a prefix of the files is a smaller model.

        Raises:
            UserError: One is missing or of another size; the message names the first.
        """
        needed = self.holding(names)
        missing = [shard.file for shard in needed if not self._path(shard.file).exists()]
        if self.remote and missing:
            self.remote.fetch(missing)
        for shard in needed:
            self.check_size(shard)

    def check_size(self, shard: ShardEntry) -> None:
        """Raises UserError where a file is missing or of another size than the manifest says."""
        path, size = self._path(shard.file), None
        with suppress(FileNotFoundError):
            size = path.stat().st_size
        if size != shard.bytes:
            state = "missing" if size is None else f"{size} bytes"
            raise UserError(
                f"{path}: {state}, but {shard.bytes} bytes are needed for this budget; copy "
                "the file again, or give a smaller budget if it was left out on purpose"
            )

    def holding(self, names: Iterable[str]) -> list[ShardEntry]:
        """Returns the files that hold one of `names`, in their order."""
        held = {self.placed[name].shard.file for name in names if name in self.placed}
        return [shard for shard in self.manifest.shards if shard.file in held]

    def get(self, name: str) -> Tensor:
        """Returns one tensor, on the CPU.

        Raises:
            UserError: The file is gone, damaged or lacks it.
        """
        if name not in self.placed:
            raise UserError(f"{self.folder}: no tensor {name}; compress the model again")
        path = self._path(self.placed[name].shard.file)
        try:
            return self._read(path, name)
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read ({reason_of(error)}); copy the container again"
            ) from None

    def close(self) -> None:
        """Closes all files; the next `get` opens what it needs."""
        for opened in self._open.values():
            opened.file.close()
        self._open.clear()

    def check_header(self, shard: ShardEntry) -> None:
        """Opens a file, unless it is open, and checks its header.

        Raises:
            ValueError: Its header is not that of the manifest's tensors.
            OSError: It cannot be read.
        """
        self._opened(self._path(shard.file))

    def _path(self, file: str) -> Path:
        return plain_file(self.folder, file)

    def _opened(self, path: Path) -> _Opened:
        if path not in self._open:
            file = open_plain(path)
            try:
                size, names = path.stat().st_size, self._names.get(path.name, [])
                exact = self.manifest.has_checksums
                places = read_header(file, size, self.manifest.stored, names, exact)
            except BaseException:
                file.close()
                raise
            self._open[path] = _Opened(file, places)
        return self._open[path]

    def _read(self, path: Path, name: str) -> Tensor:
        opened = self._opened(path)
        place, wanted = opened.places[name], self.placed[name].checksum
        data = empty_pages(place.spec.bytes)
        digest = Digest()
        opened.file.seek(place.start)
        summed = digest.update if self.verify and wanted else None
        read_into(opened.file, data.numpy().data, name, summed)
        if summed and digest.hexdigest() != wanted:
            raise ValueError(f"{name} is not what was written: its checksum is another")
        tensor = data.view(getattr(torch, place.spec.dtype)).view(place.spec.shape)
        _check_values(name, tensor, place.spec, self.manifest)
        return tensor


def open_container(
    place: Located, budget: str | int | Budget | None, level: int | None, *, verify: bool = True
) -> tuple[Manifest, list[int], BlockReader]:
    """Returns a container's manifest, the level of every stack, and a reader of their tensors.

    Args:
        verify: Whether the reader compares checksums.

    Raises:
        UserError: A file is missing or damaged, or the budget or level cannot be had.
    """
    manifest = read_manifest(place.folder)
    levels = choose_levels(manifest, budget, level)
    reader = BlockReader(place.folder, place.remote, manifest=manifest, verify=verify)
    reader.require(manifest.tensors(levels))
    return manifest, levels, reader


def _check_values(name: str, tensor: Tensor, spec: TensorSpec, manifest: Manifest) -> None:
    """Checks that a kernel can take the values of a stack's tensor: finite scales, and outliers
    that stand within the matrix, rising."""
    if spec.name == name:
        return  # a dense tensor, or the guard
    stack = manifest.specs[name.rpartition(".")[0]]
    if spec.dtype == "float16" and not tensor.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite numbers")
    if spec.name == "outlier_positions":
        inside = int(tensor[0]) >= 0 and int(tensor[-1]) < stack.rows * stack.columns
        if not inside or not (tensor[1:] > tensor[:-1]).all():
            raise ValueError(f"{name} does not rise within the matrix")
