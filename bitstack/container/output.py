"""Checks the folder that a run is to write its container into.

Does not write it; see `container.journal` and `container.shards`.
"""

from pathlib import Path

from bitstack.container.manifest import FOLDER, MANIFEST
from bitstack.errors import UserError
from bitstack.machine.new_folder import check_new_folder


def check_output(output: str | Path) -> None:
    """Checks that a run can begin in a folder, or go on in one that it was interrupted in.

    Raises:
        UserError: The folder is taken, or cannot be written.
    """
    folder = Path(output)
    if (folder / MANIFEST).exists() and not (folder / FOLDER).is_dir():
        raise holds_container(folder)
    check_new_folder(folder, marks=[FOLDER])


def holds_container(folder: Path) -> UserError:
    """Returns the error for an output that is a finished container."""
    return UserError(f"--output {folder}: already holds a container; name another folder")
