"""Tells which files hold a model's weights: those that `from_pretrained` opens, and no others.

A stray shard of an earlier save, or a second file beside the first, is none of them. Does not read
the files; see `original.headers`.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from bitstack.errors import UserError
from bitstack.original.hub_cache import Located

_INDEX_END = ".safetensors.index.json"


def weight_files(folder: Path, config: PretrainedConfig | None = None) -> list[Path]:
    """Returns the safetensors files that hold a model's weights, in the order they are read.

    The precedence is that of transformers: the file that the config names as
    `transformers_weights`, then `model.safetensors`, then the files that
    `model.safetensors.index.json` lists, whatever they are called.

    Args:
        config: Config of the folder; None where it names no file.

    Raises:
        UserError: There is none, one is missing, or the index cannot be read.
    """
    named = _named(folder, config)
    start = folder / (named or SAFE_WEIGHTS_NAME)
    if named is None and not start.is_file():
        start = folder / SAFE_WEIGHTS_INDEX_NAME
    if not start.is_file():
        missing = named or f"{SAFE_WEIGHTS_NAME} or {SAFE_WEIGHTS_INDEX_NAME}"
        raise UserError(f"{folder}: no {missing}; save the model with save_pretrained first")
    files = _listed(start) if start.name.endswith(_INDEX_END) else [start]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: missing, but {start.name} lists it; download it again")
    return files


def fetch_weights(place: Located, config: PretrainedConfig) -> None:
    """Downloads the files that `weight_files` names, where the model is on the Hub.

    Raises:
        UserError: The Hub does not give them, or the index cannot be read.
    """
    if place.remote is None:
        return
    start = place.folder / (_named(place.folder, config) or SAFE_WEIGHTS_NAME)
    if not start.name.endswith(_INDEX_END):
        place.remote.fetch([start.name])
    if not start.is_file():
        start = place.folder / SAFE_WEIGHTS_INDEX_NAME
    if start.name.endswith(_INDEX_END) and start.is_file():
        place.remote.fetch([str(file.relative_to(place.folder)) for file in _listed(start)])


def _named(folder: Path, config: PretrainedConfig | None) -> str | None:
    """The file that the config names itself, if any. Raises UserError for one of another place."""
    named: Any = getattr(config, "transformers_weights", None)
    if named is None:
        return None
    if not _inside(named) or not named.endswith((".safetensors", _INDEX_END)):
        raise UserError(
            f"{folder}: transformers_weights in config.json is {named!r}; allowed: a .safetensors "
            f"file of the folder, or an index of such (*{_INDEX_END})"
        )
    return str(named)


def _listed(index: Path) -> list[Path]:
    """The files of an index, sorted by name as transformers does."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = []
    if not names or not all(_inside(name) for name in names):
        raise UserError(
            f"{index}: not an index of weights: its weight_map must name files of the folder; "
            "download it again"
        )
    return [index.parent / name for name in names]


def _inside(name: Any) -> bool:
    """Tells whether a name is that of a file in the folder or below it."""
    path = Path(name) if isinstance(name, str) and name else None
    return path is not None and not path.is_absolute() and ".." not in path.parts
