"""Opens files of a folder that came from elsewhere: plain names, regular files, no way out of it.

A named pipe would block whoever opens it, and a link could give away another file of the machine.
Does not look into the files; see `machine.json_file`.
"""

import os
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from bitstack.errors import UserError

_PIECE = 256 << 10  # bytes that are read at once
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer opens at once


def plain_file(folder: Path, name: str) -> Path:
    """Returns the path of the file `name` in `folder`, whether it is there or not.

    Links are followed within the folder, and from a snapshot of the Hub's cache to its blobs.

    Args:
        name: A file name, or `folder/name` for a file of a folder within.

    Raises:
        UserError: The name is not plain, it is no regular file, or it is a link that leads
            elsewhere.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise UserError(f"{folder}: {name!r} is no plain file name; copy the folder again")
    path = folder.joinpath(*parts)
    try:
        target = path.resolve()
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise UserError(f"{path}: cannot be opened ({_reason(error)}); copy it again") from None
    if mode is not None and not stat.S_ISREG(mode):
        raise UserError(f"{path}: is no regular file; copy it again")
    if not any(target.is_relative_to(root) for root in _roots(folder)):
        raise UserError(
            f"{path}: is a link that leads out of the folder; put the file itself there"
        )
    return path


def open_plain(path: Path) -> FileIO:
    """Opens a file for reading, unbuffered, and never waits.

    Raises:
        OSError: It is not there, or no regular file.
    """
    file = FileIO(path, opener=lambda name, flags: os.open(name, flags | _NO_WAIT))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no regular file")
    return file


def read_into(
    file: FileIO, target: memoryview, what: str, seen: Callable[[memoryview], None] | None = None
) -> None:
    """Reads as many bytes as `target` has.

    Args:
        what: What they are, for the error message.
        seen: Gets every piece while it is in the processor's cache.

    Raises:
        ValueError: The file ends before.
    """
    while len(target):
        count = file.readinto(target[:_PIECE])
        if not count:
            raise ValueError(f"the file ends within {what}")
        if seen:
            seen(target[:count])
        target = target[count:]


def _roots(folder: Path) -> list[Path]:
    """Folders in which the files of `folder` may lie."""
    roots = [folder.resolve()]
    if folder.absolute().parent.name == "snapshots":  # of the cache: links to ../../blobs/…
        roots.append((folder.absolute().parents[1] / "blobs").resolve())
    return roots


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
