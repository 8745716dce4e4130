"""Checks, before any work, that a folder can be made for its result.

Does not make it. For files see `machine.files`.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from bitstack.errors import UserError


def check_new_folder(
    folder: str | Path, *, option: str = "--output", marks: Iterable[str] = ()
) -> None:
    """Checks that a folder is new or empty, and that its files could be written.

    Args:
        option: The command-line option that named the folder, for the error message.
        marks: Names within the folder that tell it is one to go on in, though it is not empty.

    Raises:
        UserError: It is a file, holds other files, or cannot be written.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"{option} {path}: is a file; name a folder")
    above = existing_folder(path)
    if above.is_file():
        raise UserError(f"{option} {path}: {above} is a file; name another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(
            f"{option} {path}: cannot write (permission denied); name a folder that you may "
            "write to"
        )
    if path.is_dir() and any(path.iterdir()) and not any((path / mark).exists() for mark in marks):
        raise UserError(f"{option} {path}: is not empty; name a new folder")


def existing_folder(folder: Path) -> Path:
    """Returns the folder, or the nearest above it that exists (a file, where one is in the way)."""
    return next(p for p in (folder, *folder.absolute().parents) if p.exists())
