"""Writes files, whole or not at all, and turns disk errors into UserErrors.

A file gets its name only when its bytes are on the disk, so a power cut leaves no half of one. JSON
files hold only numbers that JSON has: infinities and NaN become null.
"""

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bitstack.errors import UserError

# What file systems answer that cannot sync a folder, such as some over a network.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def write_json(target: str | Path, data: Any, *, option: str = "--json") -> None:
    """Writes `data` to the file `target` as JSON; infinities and NaN become null.

    Args:
        option: The command-line option that named the file, for the error message.

    Raises:
        UserError: The file cannot be written; an existing file is then unchanged.
    """
    write_text(target, json_text(data), option=option)


def json_text(data: Any) -> str:
    """Returns `data` as JSON with a line end; infinities and NaN become null."""
    return json.dumps(_finite(data), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def check_target(target: str | Path, *, option: str) -> None:
    """Checks, before any work, that a file could be written at `target`.

    Raises:
        UserError: It is a folder, or lies in none that can be written to.
    """
    path = Path(target)
    reason = ""
    if path.is_dir():
        reason = "it is a folder"
    elif not path.parent.is_dir():
        reason = f"{path.parent} is no folder"
    elif not os.access(path.parent, os.W_OK):  # it is written beside, and then renamed
        reason = "permission denied"
    if reason:
        raise UserError(
            f"{option} {target}: cannot write ({reason}); name a file in a folder that exists"
        )


def write_text(target: str | Path, text: str, *, option: str) -> None:
    """Writes `text` to the file `target` in UTF-8.

    Args:
        option: The command-line option that named the file, for the error message.

    Raises:
        UserError: The file cannot be written; an existing file is then unchanged.
    """
    check_target(target, option=option)
    path = Path(target)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        publish(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(
            f"{option} {path}: cannot write ({error.strerror}); name a file in a folder that exists"
        ) from None


def publish(partial: Path, target: Path) -> None:
    """Gives a finished file its name, after its bytes have reached the disk.

    Even after a power cut `target` is then the whole file, or what it was before.
    """
    sync(partial)
    partial.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows opens no folders
        return
    opened = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(opened)
    except OSError as error:
        if not is_folder or error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(opened)


@contextmanager
def disk_errors(path: Path, *, delete: bool = True) -> Iterator[None]:
    """Within it, a full or read-only disk gives a UserError, and half a file `path` is deleted.

    Args:
        delete: Whether `path` is deleted then.

    Raises:
        UserError: The disk refused a write.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            if delete:
                path.unlink()
        raise UserError(
            f"{path.parent}: cannot write ({_reason(error)}); free disk space and run the same "
            "command again, or choose another --output"
        ) from None


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Within it, a file `path` of an unfinished run that is gone or damaged gives a UserError.

    A damaged one is deleted, so that the next run makes it anew.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError):
            with suppress(OSError):
                path.unlink()
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> UserError:
    """Returns the error for a file of an unfinished run that cannot be read."""
    return UserError(
        f"{path}: cannot be read ({_reason(error)}); run the same command again, and what is "
        "missing is made anew"
    )


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
