"""Prepares what a model folder holds beside its weights: the config, and files that are copied."""

import copy
import shutil
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from bitstack.original.source import load_config

_COPIED = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab*", "merges.txt", "spiece.model", "chat_template*", "LICENSE*",
)  # fmt: skip


def copy_beside(source: Path, folder: Path) -> None:
    """Copies tokenizer, generation settings and licence from the model folder `source`."""
    for pattern in _COPIED:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)


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
