"""What goes with weights into a folder: the config, and the files that are copied as they are."""

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
    """Copy tokenizer, generation settings and licence of the model folder `source`."""
    for pattern in _COPIED:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def config_of(model: Any, source: Path, dtype: str) -> PretrainedConfig:
    """A copy of the config to save with `model`, which was made from that of the folder `source`.

    The folder's own where it is another type: that of a model of which `model` is the text part.
    """
    whole = load_config(source)
    config = copy.deepcopy(model.config) if type(whole) is type(model.config) else whole
    config.architectures, config.dtype = [type(model).__name__], dtype
    return config
