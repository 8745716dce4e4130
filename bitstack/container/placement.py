"""Tells which file of a container holds which tensor, and with which checksum.

From format 7 on the manifest alone says it: every file has the next of the tensors in universal
order, as many as it has checksums. Older containers have an index for it, which may name files of
the manifest only. Does not open the tensors' files; see `container.reading`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitstack.container.entries import ShardEntry
from bitstack.container.manifest import INDEX, Manifest
from bitstack.errors import UserError
from bitstack.machine.json_file import read_json
from bitstack.machine.plain_files import plain_file

_MOST_BYTES = 64 << 20  # of an index; one of 400,000 tensors has about 40 MB


@dataclass(frozen=True)
class Placed:
    """The file of one tensor; `checksum` is None in containers of formats 1 to 6."""

    shard: ShardEntry
    checksum: str | None = None


def place_tensors(folder: Path, manifest: Manifest) -> dict[str, Placed]:
    """Returns where every stored tensor lies, by name.

    Raises:
        UserError: The index, where one is needed, is missing or not of this manifest.
    """
    if manifest.has_checksums:
        names = iter(manifest.stored)
        return {
            next(names): Placed(shard, one)
            for shard in manifest.shards
            for one in shard.checksums or ()
        }
    shards = {shard.file: shard for shard in manifest.shards}
    where = read_index(folder)
    for name, file in where.items():
        if name not in manifest.stored or file not in shards:
            raise UserError(
                f"{folder / INDEX}: names {name[:200]} in {file[:200]}, which the manifest does "
                "not; copy the container again"
            )
    return {name: Placed(shards[file]) for name, file in where.items()}


def read_index(folder: Path) -> dict[str, str]:
    """Returns the file of every tensor, by name, as the index has it.

    Raises:
        UserError: It is missing or damaged.
    """
    path = plain_file(folder, INDEX)
    if not path.exists():
        raise UserError(f"{path}: missing or damaged; copy the container again")
    data: Any = read_json(path, _MOST_BYTES)
    where = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise UserError(f"{path}: missing or damaged (weight_map); copy the container again")
    return where
