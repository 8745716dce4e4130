"""Checks everything that a container holds: manifest, small files, headers, tensors, SHA-256.

Goes on behind a fault, so that all are found at once. Does not load a model; see `live.loading`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitstack.container.entries import ShardEntry
from bitstack.container.manifest import INDEX, MANIFEST, Manifest, read_manifest
from bitstack.container.placement import read_index
from bitstack.container.reading import BlockReader
from bitstack.container.shards import sha256
from bitstack.container.skeleton_of import skeleton_of
from bitstack.container.small_files import CONFIG, check_sums, fault_of
from bitstack.errors import UserError
from bitstack.machine.json_file import reason_of
from bitstack.machine.progress import bar
from bitstack.original.hub_cache import Located, locate

_SHARDS = "model.bitstack-*.safetensors"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a container."""

    file: str  # within the container
    tensor: str | None  # None: the file as a whole
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.tensor + ': ' if self.tensor else ''}{self.reason}"


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is wrong with it."""

    folder: str
    format: int | None  # None: the manifest could not be read
    files: int  # with tensors, and with a checksum in the manifest
    tensors: int  # that were read
    bytes: int  # of the files with tensors
    checksums: bool  # whether the tensors have some: containers of formats 1 to 6 have none
    faults: list[Fault]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields."""
        return asdict(self)


def verify(path: str | Path, *, progress: bool = False) -> Verified:
    """Checks every file of a container, and every tensor in it.

    The manifest and its checksum, the checksums of config, tokenizer and recipe, sizes, headers,
    the checksum and the values of every tensor, the SHA-256 of every file, and that no other files
    of tensors lie there. It finds damage. A container that somebody changed on purpose, checksums
    and all, it does not find: compare the commit on the Hub.

    Args:
        path: Folder of a container, or `owner/name` on the Hub, which is downloaded whole.
        progress: Show a progress bar.

    Returns:
        How much was looked at, and the faults by file and tensor; none for a whole container.

    Raises:
        UserError: There is no container, or the Hub does not give it.

    Example:
        >>> import bitstack
        >>> bitstack.verify("my-container").faults
        []
    """
    place = locate(path)
    folder = place.folder
    if not folder.is_dir() or not (folder / MANIFEST).exists():
        read_manifest(folder)  # says that there is no container
    try:
        manifest = read_manifest(folder)
        if place.remote:
            place.remote.fetch([*(shard.file for shard in manifest.shards), *manifest.files])
        reader = BlockReader(folder, manifest=manifest)
    except UserError as error:
        fault = Fault(MANIFEST, None, _without(folder, error))
        return Verified(str(folder), None, 0, 0, 0, False, [fault])
    return _verify(place, manifest, reader, progress)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compares the SHA-256 of every file of tensors, and the checksums of the small files.

    Raises:
        UserError: A file is missing or differs; the message names the first.
    """
    for shard in manifest.shards:
        if not (folder / shard.file).is_file():
            raise UserError(f"{folder / shard.file}: missing; copy the container again")
        if sha256(folder / shard.file) != shard.sha256:
            raise UserError(
                f"{folder / shard.file}: its SHA-256 is not the one in bitstack.json; copy the "
                "container again"
            )
    check_sums(folder, manifest)


def _verify(place: Located, manifest: Manifest, reader: BlockReader, progress: bool) -> Verified:
    folder = place.folder
    faults = [*_small_faults(folder, manifest), *_index_faults(folder, manifest, reader)]
    read = 0
    shards = bar(manifest.shards, desc="verify", show=progress, unit="file")
    for shard in shards:
        found = [*_shard_faults(folder, shard, reader)]
        read += sum(placed.shard is shard for placed in reader.placed.values())
        faults += found
        reader.close()
    return Verified(
        folder=str(folder),
        format=manifest.format,
        files=len(manifest.shards) + len(manifest.files),
        tensors=read,
        bytes=sum(shard.bytes for shard in manifest.shards),
        checksums=manifest.has_checksums,
        faults=faults,
    )


def _small_faults(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    for name in manifest.files:
        try:
            if fault := fault_of(folder, manifest, name):
                yield Fault(name, None, fault)
        except UserError as error:
            yield Fault(name, None, _without(folder, error))
    try:
        skeleton_of(folder, manifest, verify=False)
    except UserError as error:
        yield Fault(CONFIG, None, _without(folder, error))


def _index_faults(folder: Path, manifest: Manifest, reader: BlockReader) -> Iterator[Fault]:
    """Faults of the index, which transformers reads, and files that no manifest knows."""
    try:
        where = read_index(folder)
    except UserError as error:
        yield Fault(INDEX, None, _without(folder, error))
        where = {}
    for name, placed in reader.placed.items():
        if where and where.pop(name, None) != placed.shard.file:
            yield Fault(INDEX, name, f"is not placed in {placed.shard.file}")
    for name in where:
        yield Fault(INDEX, name, "is in the index, but not in the manifest")
    known = {shard.file for shard in manifest.shards}
    for path in sorted(folder.glob(_SHARDS)):
        if path.name not in known:
            yield Fault(path.name, None, "is not of this container; delete it")


def _shard_faults(folder: Path, shard: ShardEntry, reader: BlockReader) -> Iterator[Fault]:
    try:
        reader.check_size(shard)
        reader.check_header(shard)
    except UserError as error:
        yield Fault(shard.file, None, _without(folder, error))
        return
    except (OSError, ValueError) as error:
        yield Fault(shard.file, None, reason_of(error))
        return
    damaged = False
    for name in (name for name, placed in reader.placed.items() if placed.shard is shard):
        try:
            reader.get(name)
        except UserError as error:
            damaged = True
            yield Fault(shard.file, name, _without(folder / shard.file, error))
    if not damaged and sha256(folder / shard.file) != shard.sha256:
        yield Fault(shard.file, None, f"its SHA-256 is not the one in {MANIFEST}")


def _without(path: Path, error: UserError) -> str:
    """The message of an error without the path that it begins with."""
    return str(error).removeprefix(str(path)).lstrip("/:, ")
