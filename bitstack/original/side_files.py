"""Prepares what a model folder holds beside its weights: the config, and files that are copied."""

import copy
import json
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import CONFIG_NAME

from bitstack.machine.files import json_text
from bitstack.original.file_names import BESIDE, files_beside
from bitstack.original.source import load_config

_SETTINGS = ("tokenizer_config.json", "generation_config.json")
# Fields in which versions of transformers keep where a tokenizer was read from.
_PATHS = ("name_or_path", "_name_or_path", "tokenizer_file", "special_tokens_map_file")


def copy_beside(source: Path, folder: Path, patterns: Iterable[str] = BESIDE) -> None:
    """Copies tokenizer, templates, generation settings and licence from the folder `source`.

    They stay byte for byte, unless a file of settings names a path of the disk it was saved on.
    """
    for name in files_beside(source, patterns):
        (folder / name).parent.mkdir(exist_ok=True)
        if name in _SETTINGS and (fields := _without_paths(source / name)) is not None:
            (folder / name).write_text(json_text(fields), encoding="utf-8")
        else:
            shutil.copyfile(source / name, folder / name)


def _without_paths(file: Path) -> dict[str, Any] | None:
    """Returns the fields of a file but for those that are paths; None where there is none such."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None  # whoever reads it says what is wrong
    paths = [name for name in _PATHS if isinstance(fields, dict) and _is_path(fields.get(name))]
    return {name: fields[name] for name in fields if name not in paths} if paths else None


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (
        PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    )


def write_config(config: PretrainedConfig, folder: Path) -> None:
    """Writes `config.json` in the form of `save_pretrained`.

    Generation settings in it, which `save_pretrained` refuses, stay as they are; the name of a file
    of weights does not, because the folder holds others. Nor does the path that it was read from,
    which transformers keeps in the configs within it.
    """
    if hasattr(config, "transformers_weights"):
        del config.transformers_weights
    fields = _unnamed(json.loads(config.to_json_string()))
    text = json.dumps(fields, indent=2, sort_keys=True)
    (folder / CONFIG_NAME).write_text(f"{text}\n", encoding="utf-8")


def _unnamed(fields: Any) -> Any:
    """Returns the fields without `_name_or_path`, here and within."""
    if not isinstance(fields, dict):
        return fields
    return {key: _unnamed(value) for key, value in fields.items() if key != "_name_or_path"}


def config_of(model: Any, source: Path, dtype: str) -> PretrainedConfig:
    """Returns the config to save with `model`, which was made from the folder `source`.

    It is a copy of the model's own. Where the folder's config is of another type, as that of a
    model of text and images whose text part is `model`, it is the folder's.

    Args:
        dtype: Name of the dtype to write into it, such as `bfloat16`.
    """
    whole = load_config(source)
    config = copy.deepcopy(model.config) if type(whole) is type(model.config) else whole
    config.architectures, config.dtype = [type(model).__name__], dtype
    return config
