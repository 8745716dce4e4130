"""Keeps tensors of a run in files, so that they do not fill the memory.

Knows keys and folders. Does not know what the tensors are; see `calibration.fisher`,
`ordering.reference` and `tuning.tuner`.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from bitstack.machine.files import disk_errors, publish, reading_errors


class Spill:
    """A folder with one file of tensors for each key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with disk_errors(folder / "spill"):
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, tensors: list[Tensor]) -> None:
        """Writes a list of tensors; `get` reads it back."""
        self.put_named(key, {str(i): tensor for i, tensor in enumerate(tensors)})

    def put_named(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Writes tensors by name; `get_named` reads them back.

        The file appears whole or not at all: a run that goes on after an interruption takes every
        file it finds as done.

        Raises:
            UserError: when the disk is full or cannot be written.
        """
        partial = self.folder / f"{key}.partial"
        with disk_errors(partial):
            save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, partial)
            publish(partial, self.folder / key)

    def has(self, key: str) -> bool:
        """Whether the tensors of a key are there, perhaps from a run that was interrupted."""
        return (self.folder / key).is_file()

    def get(self, key: str) -> list[Tensor]:
        tensors = self.get_named(key)
        return [tensors[str(i)] for i in range(len(tensors))]

    def get_named(self, key: str) -> dict[str, Tensor]:
        """Returns the tensors of a key by name.

        Raises:
            UserError: The file is gone or damaged.
        """
        with reading_errors(self.folder / key):
            return load_file(self.folder / key)

    def remove(self, key: str) -> None:
        """Deletes the file of a key, if there is one."""
        (self.folder / key).unlink(missing_ok=True)
