"""Tensors of a run that wait in files, so that they do not fill the memory.

Knows names and folders; what the tensors are is the caller's.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from bitstack.machine.files import disk_errors


class Spill:
    """Tensors kept in files, one a key, so that what a backward pass needs does not stay in
    memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with disk_errors(folder / "spill"):
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, tensors: list[Tensor]) -> None:
        self.put_named(key, {str(i): tensor for i, tensor in enumerate(tensors)})

    def put_named(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Tensors by name, whole or not at all: another process may be waiting for the file."""
        partial = self.folder / f"{key}.partial"
        with disk_errors(partial):
            save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, partial)
        partial.rename(self.folder / key)

    def named(self, key: str) -> dict[str, Tensor]:
        return load_file(self.folder / key)

    def peek(self, key: str) -> list[Tensor]:
        tensors = self.named(key)
        return [tensors[str(i)] for i in range(len(tensors))]

    def take(self, key: str) -> list[Tensor]:
        tensors = self.peek(key)
        (self.folder / key).unlink()
        return tensors
