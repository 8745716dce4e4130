"""Lets one process at a time work in a folder.

The operating system holds the lock, so that of a process that was killed is free at once. Where a
file system has no locks (some over a network), the work goes on without one, and a line says so.
Does not know what the folder holds; see `container.journal`.
"""

import errno
import logging
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bitstack.errors import UserError
from bitstack.machine.files import disk_errors

_log = logging.getLogger(__name__)
LOCK = "lock"  # name of its file in the folder
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)


class FolderLock(AbstractContextManager["FolderLock"]):
    """The right to work in `folder`; given back at the end of a `with`.

    A folder that exists is locked when the `with` begins, a new one when `take` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A fallback to the mere existence of a file would outlive a process that was killed.
        self._lock = FileLock(folder / LOCK, thread_local=False, fallback_to_soft=False)
        self._taken = False

    def __enter__(self) -> "FolderLock":
        if self.folder.is_dir():
            self.take()
        return self

    def __exit__(self, *_: object) -> None:
        if os.name != "nt":  # Windows deletes no file that is open
            self._remove_if_alone()
        self._lock.release()
        if os.name == "nt":
            self._remove_if_alone()

    def take(self) -> None:
        """Makes the folder if it is not there, and locks it; does nothing if that is done.

        Raises:
            UserError: Another process works in the folder, or it cannot be written.
        """
        if self._taken:
            return
        with disk_errors(self.folder / LOCK, delete=False):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
        self._taken = True

    def _acquire(self) -> None:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"{self.folder.parent}: another run is writing to this folder; wait until it ends, "
                "or name another --output"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _log.warning(
                "warning: %s: its file system has no locks (%s); see that no other run writes to "
                "this folder", self.folder.parent, error.strerror,
            )  # fmt: skip

    def _remove_if_alone(self) -> None:
        """Removes a folder that holds nothing but the lock."""
        with suppress(OSError):
            if self._taken and [path.name for path in self.folder.iterdir()] == [LOCK]:
                (self.folder / LOCK).unlink()
                self.folder.rmdir()
