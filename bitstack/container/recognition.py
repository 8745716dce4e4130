"""Tells a container from an original model by the files of its folder.

Does not read what it holds; see `container.manifest`.
"""

from pathlib import Path

from bitstack.container.manifest import FOLDER, MANIFEST
from bitstack.container.small_files import read_config
from bitstack.errors import UserError


def is_container(path: str | Path) -> bool:
    """Returns whether a folder is a container, be it a finished one, unfinished or damaged."""
    folder = Path(path)
    return (
        (folder / MANIFEST).is_file() or (folder / FOLDER).is_dir() or _config_of_container(folder)
    )


def _config_of_container(folder: Path) -> bool:
    """Recognises a container that lost its manifest by its config.json."""
    try:
        return bool(read_config(folder)["quantization_config"]["quant_method"] == "bitstack")
    except (UserError, KeyError, TypeError):
        return False
