"""One process at a time works in a folder; a dead one does not keep it."""

import errno
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from bitstack.errors import UserError
from bitstack.machine.folder_lock import LOCK, FolderLock

HOLD = """
import sys, time
from pathlib import Path
from bitstack.machine.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])) as lock:
    lock.take()
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "work"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"out: another run is writing to this folder; wait"):
            FolderLock(folder).take()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    (folder / "kept").write_text("x")
    with FolderLock(folder) as lock:
        lock.take()
    assert {path.name for path in folder.iterdir()} == {LOCK, "kept"}


def test_a_folder_that_exists_is_locked_at_once_and_a_new_one_when_it_is_made(
    tmp_path: Path,
) -> None:
    with FolderLock(tmp_path / "new") as lock:
        assert not (tmp_path / "new").exists()
        lock.take()
        with pytest.raises(UserError, match="another run"), FolderLock(tmp_path / "new"):
            pass
    assert not (tmp_path / "new").exists()  # nothing but the lock was in it
    FolderLock(tmp_path / "new").take()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_without_locks_the_work_goes_on_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", fail)
    with caplog.at_level(logging.WARNING, "bitstack"), FolderLock(tmp_path / "new") as lock:
        lock.take()
    assert "its file system has no locks (No locks available)" in caplog.text


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOENT])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, "no")

    monkeypatch.setattr(FileLock, "acquire", fail)
    with pytest.raises(UserError, match=r"new: cannot write \(.*no\)"):
        FolderLock(tmp_path / "new").take()
