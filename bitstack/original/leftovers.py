"""Judges the stored tensors that a model has no place for.

Layers beyond the config's and whole modules of their own, such as heads that predict further tokens
or a vision tower, are left out as transformers leaves them out, and named. A part of a matrix
that is in use is refused. Old buffers are of no matter. Does not check what the model does have;
see `original.headers`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bitstack.errors import UserError
from bitstack.original.decoder_layers import find_layers, layer_of

_MATRIX_DIMENSIONS = (2, 3)  # buffers of old versions have one or four
_SHOWN = 4  # parts named in a line


def parts_left_out(
    folder: Path, model: PreTrainedModel, unknown: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Returns the names of the modules in the files that the model does not have, sorted.

    Args:
        unknown: Shapes of the tensors without a place, by their renamed names.

    Raises:
        UserError: A tensor belongs to a matrix that the model has, as an adapter or a bias does.
    """
    if not unknown:
        return []
    layers = find_layers(model)[0]
    parts = set()
    for key, shape in unknown.items():
        name = _with_prefix(key, model)
        layer = layer_of(name, layers)
        if layer is not None and layer >= len(model.get_submodule(layers)):  # type: ignore[arg-type]
            parts.add(f"{layers}.{layer}")
            continue
        _refuse_part_of_matrix(folder, model, name)
        if len(shape) in _MATRIX_DIMENSIONS:
            parts.add(_known_part(model, name)[1])
    return sorted(parts, key=_by_number)


def left_out_line(parts: list[str]) -> str:
    """Returns the line that names what is left out."""
    shown = ", ".join(parts[:_SHOWN])
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return (
        f"left out, because the model of config.json does not have it: {shown}{more} "
        "(as transformers loads it)"
    )


def _refuse_part_of_matrix(folder: Path, model: PreTrainedModel, name: str) -> None:
    ignored: Iterable[str] = model._keys_to_ignore_on_load_unexpected or ()
    if any(re.search(pattern, name) for pattern in ignored):
        return
    known = _known_part(model, name)[0]
    if isinstance(known, nn.Linear | Conv1D | nn.Embedding | nn.ModuleList):
        raise UserError(
            f"{folder}: the files hold {name}, which the model of config.json has no place for: "
            "config.json is another model's, or the weights are of a layout not known here"
        )


def _with_prefix(name: str, model: Any) -> str:
    """The name in the whole model of a tensor that was saved from the model without its head."""
    first, base = name.split(".")[0], model.base_model
    inner = base is not model and not hasattr(model, first) and hasattr(base, first)
    return f"{model.base_model_prefix}.{name}" if inner else name


def _known_part(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The innermost module that the dotted `name` lies in, and the name down to the first part
    that is not there."""
    module, parts = model, name.split(".")
    for depth, part in enumerate(parts, start=1):
        inner = module._modules.get(part)
        if inner is None:
            return module, ".".join(parts[:depth])
        module = inner
    return module, name


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts layer 9 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
