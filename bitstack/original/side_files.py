"""Prepares what a model folder holds beside its weights: the config, and files that are copied."""

import copy
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import CONFIG_NAME

from bitstack.original.file_names import BESIDE, files_beside
from bitstack.original.source import load_config


def copy_beside(source: Path, folder: Path, patterns: Iterable[str] = BESIDE) -> None:
    """Copies tokenizer, templates, generation settings and licence from the folder `source`."""
    for name in files_beside(source, patterns):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def write_config(config: PretrainedConfig, folder: Path) -> None:
    """Writes `config.json` in the form of `save_pretrained`.

    Generation settings in it, which `save_pretrained` refuses, stay as they are; the name of a file
    of weights does not, because the folder holds others.
    """
    if hasattr(config, "transformers_weights"):
        del config.transformers_weights
    config.to_json_file(folder / CONFIG_NAME)


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
