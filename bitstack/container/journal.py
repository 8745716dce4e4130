"""Keeps the finished matrices of a run on disk, so that memory does not grow with depth.

The journal is one file for each matrix in `.work` inside the output folder, until the shards are
written from it. Each file appears whole or not at all. A tensor stored under a key that starts
with ~ replaces the tensor of the same name under a key without. Stages keep files of their own in
folders beside them, to go on from. The fingerprint tells the work of another run. Does not write
the container; see `container.shards`. Does not keep two runs apart; see `machine.folder_lock`.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitstack.container.manifest import FOLDER
from bitstack.errors import UserError
from bitstack.machine.files import disk_errors, publish, reading_errors, unreadable
from bitstack.machine.folder_lock import LOCK
from bitstack.machine.json_file import parse_json

_RUN = "run.json"  # whose work the folder holds; the last file to go


class Journal:
    """Named groups of tensors, each with a small JSON note, under `folder/.work`."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / FOLDER
        self.fingerprint = fingerprint
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.notes: dict[str, dict[str, Any]] = {}
        self._file_of: dict[str, Path] = {}  # by tensor name
        self._files: set[Path] = set()
        self._open_files: dict[Path, Any] | None = None
        self.refresh()
        self._take_over(recorded_fingerprint(folder))

    def _take_over(self, known: str | None) -> None:
        """Makes the folder this run's own, whose work was that of the fingerprint `known`.

        Work that nobody vouches for is deleted: files of a stage say nothing of their run.
        """
        if known == self.fingerprint:
            return
        if known is not None and any(path.is_dir() for path in self.path.iterdir()):
            raise self._of_another_run()
        if not self.notes:
            self._clear()
        partial = self.path / f"{_RUN}.partial"
        with disk_errors(partial):
            partial.write_text(json.dumps({"fingerprint": self.fingerprint}))
            publish(partial, self.path / _RUN)

    def _of_another_run(self) -> UserError:
        return UserError(
            f"{self.path.parent}: holds an unfinished run with another model, recipe or "
            "calibration text; finish that one, or delete the folder first"
        )

    def refresh(self) -> None:
        """Reads the entries that other workers have written since."""
        for file in sorted(set(self.path.glob("*.safetensors")) - self._files):
            self._read_entry(file)

    def put(self, key: str, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
        """Writes one group of tensors; an interrupted write leaves nothing.

        Args:
            key: Name of the group, such as that of the matrix.
            tensors: By their names in the container.
            note: What else is known of the group; must be JSON.

        Raises:
            UserError: The disk refused the write.
        """
        file = self._file(key)
        partial = file.with_suffix(".partial")
        text = json.dumps({"key": key, "fingerprint": self.fingerprint, "note": note})
        with disk_errors(partial):
            save_file(
                {name: t.contiguous() for name, t in tensors.items()}, partial, {"journal": text}
            )
            publish(partial, file)
        self._read_entry(file)

    def __contains__(self, key: str) -> bool:
        return key in self.notes

    def get(self, name: str) -> Tensor:
        """Returns one tensor by its name in the container.

        Raises:
            UserError: Its file is gone or damaged.
        """
        file = self._file_of[name]
        with reading_errors(file):
            return self._read(file, name)

    def _read(self, file: Path, name: str) -> Tensor:
        if self._open_files is not None:
            if file not in self._open_files:
                self._open_files[file] = safe_open(file, framework="pt")
            return self._open_files[file].get_tensor(name)
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)

    @contextmanager
    def files_kept_open(self) -> Iterator[None]:
        """Within it, files stay open once opened.

        Saves time where many tensors of one file are read: opening reads its whole list of tensors.
        """
        self._open_files = {}
        try:
            yield
        finally:
            self._open_files = None

    def remove(self) -> None:
        """Deletes the journal from the disk."""
        remove_work(self.path.parent)

    def _clear(self) -> None:
        """Deletes everything but the lock."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink()

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.safetensors"

    def _read_entry(self, file: Path) -> None:
        """Takes up the note and the tensor names of one file; deletes a damaged one."""
        try:
            with safe_open(file, framework="pt") as opened:
                head = parse_json((opened.metadata() or {})["journal"].encode())
                names = list(opened.keys())
        except (SafetensorError, KeyError, ValueError):
            file.unlink(missing_ok=True)
            return
        except OSError as error:
            raise unreadable(file, error) from None
        if head["fingerprint"] != self.fingerprint:
            raise self._of_another_run()
        self._files.add(file)
        self.notes[head["key"]] = head["note"]
        self._file_of |= dict.fromkeys(names, file)


def recorded_fingerprint(folder: Path) -> str | None:
    """Returns the fingerprint of the run whose work `folder` holds; None if there is none."""
    try:
        return str(json.loads((folder / FOLDER / _RUN).read_text())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_work(folder: Path) -> None:
    """Deletes the work of a run that has finished, whose run is known until all else is gone."""
    work = folder / FOLDER
    with suppress(OSError):
        for path in work.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in (LOCK, _RUN):
                path.unlink()
    shutil.rmtree(work, ignore_errors=True)
