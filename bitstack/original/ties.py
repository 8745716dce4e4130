"""Settles which parameters are tied: what the files hold counts, as in transformers.

Two tensors of different values are not tied, whatever the config says. Of a tied pair either may
be stored alone. Does not tie them; see `original.source`.
"""

from typing import Any

import torch
from safetensors import safe_open
from transformers import PretrainedConfig

from bitstack.original.headers import Header

_AT_ONCE = 1 << 24  # numbers compared at a time


def untied_by_files(
    model: Any, headers: dict[str, Header], keys: dict[str, list[str]], dtype: torch.dtype
) -> list[str]:
    """Returns the parameters that the config ties, while the files hold other values for them.

    Args:
        keys: As `keys_by_tensor` returns it.
        dtype: In which the model is loaded, and so in which values are compared.
    """
    return [
        target
        for target, origin in model.all_tied_weights_keys.items()
        if len(keys.get(target, ())) == len(keys.get(origin, ())) == 1
        and not _equal(headers[keys[target][0]], headers[keys[origin][0]], dtype)
    ]


def untie(config: PretrainedConfig) -> None:
    """Makes the config say that nothing is tied."""
    for part in (config, config.get_text_config()):
        if hasattr(part, "tie_word_embeddings"):
            part.tie_word_embeddings = False


def under_stored_names(
    model: Any, headers: dict[str, Header], keys: dict[str, list[str]]
) -> dict[str, Header]:
    """Returns the headers with a tied tensor that is stored alone under the name of its origin.

    So a head that is stored without the embedding is read as the embedding.
    """
    renamed = dict(headers)
    held = set(keys)
    for target, origin in model.all_tied_weights_keys.items():
        if origin not in held and len(keys.get(target, ())) == 1 and target in held:
            renamed[origin] = renamed.pop(keys[target][0])
            held.add(origin)
    return renamed


def _equal(one: Header, other: Header, dtype: torch.dtype) -> bool:
    """Compares two stored tensors, some rows at a time."""
    if one.shape != other.shape:
        return False
    rows = max(1, _AT_ONCE // max(1, torch.Size(one.shape[1:]).numel()))
    with safe_open(one.file, "pt") as first, safe_open(other.file, "pt") as second:
        a, b = first.get_slice(one.key), second.get_slice(other.key)
        return all(
            torch.equal(a[start : start + rows].to(dtype), b[start : start + rows].to(dtype))
            for start in range(0, one.shape[0], rows)
        )
