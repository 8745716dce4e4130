"""Keeps the finished matrices of a run on disk, so that memory does not grow with depth.

The journal is one file for each matrix in `.work` inside the output folder, until the shards are
written from it. Each file appears whole or not at all. A tensor stored under a key that starts
with ~ replaces the tensor of the same name under a key without. The fingerprint tells the journal
of another run. Does not write the container; see `container.shards`.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitstack.errors import UserError
from bitstack.machine.files import disk_errors
from bitstack.machine.json_file import parse_json

FOLDER = ".work"


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
        partial.rename(file)
        self._read_entry(file)

    def __contains__(self, key: str) -> bool:
        return key in self.notes

    def get(self, name: str) -> Tensor:
        """Returns one tensor by its name in the container."""
        file = self._file_of[name]
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
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.safetensors"

    def _read_entry(self, file: Path) -> None:
        """Takes up the note and the tensor names of one file; deletes a damaged one."""
        try:
            with safe_open(file, framework="pt") as opened:
                head = parse_json((opened.metadata() or {})["journal"].encode())
                names = list(opened.keys())
        except (SafetensorError, KeyError, ValueError):
            file.unlink()
            return
        if head["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{file.parent.parent}: holds an unfinished run with another model, recipe or "
                "calibration text; finish that one, or delete the folder first"
            )
        self._files.add(file)
        self.notes[head["key"]] = head["note"]
        self._file_of |= dict.fromkeys(names, file)
