"""The journal of a run: one file for each finished matrix, so that memory does not grow with depth.

Lies in `.work` inside the output folder until the shards are written from it. Each file appears
whole or not at all. Tensors of a key that starts with ~ go before those of the same name without.
Journals of another run are told apart by their fingerprint.
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

FOLDER = ".work"


class Journal:
    """Named groups of tensors, each with a small JSON note, under `folder/.work`."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / FOLDER
        self.fingerprint = fingerprint
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.notes: dict[str, dict[str, Any]] = {}
        self._where: dict[str, Path] = {}
        self._files: set[Path] = set()
        self._held: dict[Path, Any] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Take up the entries that other workers have written."""
        for file in sorted(set(self.path.glob("*.safetensors")) - self._files):
            self._open(file)

    def put(self, key: str, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
        """Write one group; an interrupted write leaves nothing."""
        file = self._file(key)
        partial = file.with_suffix(".partial")
        text = json.dumps({"key": key, "fingerprint": self.fingerprint, "note": note})
        with disk_errors(partial):
            save_file(
                {name: t.contiguous() for name, t in tensors.items()}, partial, {"journal": text}
            )
        partial.rename(file)
        self._open(file)

    def __contains__(self, key: str) -> bool:
        return key in self.notes

    def get(self, name: str) -> Tensor:
        """One tensor by its name in the container."""
        file = self._where[name]
        if self._held is not None:
            if file not in self._held:
                self._held[file] = safe_open(file, framework="pt")
            return self._held[file].get_tensor(name)
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is opened within this context stays mapped until its end: for many tensors of a
        file, whose list of tensors is read at every opening."""
        self._held = {}
        try:
            yield
        finally:
            self._held = None

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.safetensors"

    def _open(self, file: Path) -> None:
        try:
            with safe_open(file, framework="pt") as opened:
                head = json.loads((opened.metadata() or {})["journal"])
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
        self._where |= dict.fromkeys(names, file)
