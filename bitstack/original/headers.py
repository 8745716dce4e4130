"""Reads which tensors a model folder's files hold, and checks that they are a given model's.

Reads names, dtypes and shapes only, before and after transformers' own renaming and fusing. Does
not read values; see `original.source`.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from bitstack.errors import UserError, one_line

_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
Shape = tuple[int, ...]
OTHER_MODEL = "the folder is incomplete or its config.json is another model's"


@dataclass(frozen=True)
class Header:
    """File, name in it, dtype (as safetensors spells it) and shape of one stored tensor."""

    file: Path
    key: str
    dtype: str
    shape: Shape


def read_headers(files: list[Path]) -> dict[str, Header]:
    """Returns the headers of all tensors in safetensors files, by name.

    Of a name in several files the last counts, as in transformers.

    Raises:
        UserError: A file cannot be read, or there is no tensor in any.
    """
    headers: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - not a mapping
                    part = opened.get_slice(key)
                    headers[key] = Header(file, key, part.get_dtype(), tuple(part.get_shape()))
        except Exception as error:  # safetensors raises its own undocumented error type
            raise UserError(f"{file}: cannot be read as safetensors: {one_line(error)}") from None
    if not headers:
        raise UserError(f"{files[0]}: holds no tensors; save the model again")
    return headers


def stored_dtype(headers: dict[str, Header]) -> torch.dtype:
    """Returns the dtype of the first floating-point tensor, for a config that names none."""
    dtypes = (_FLOATS[h.dtype] for h in headers.values() if h.dtype in _FLOATS)
    return next(dtypes, torch.float32)


def keys_by_tensor(model: PreTrainedModel, headers: dict[str, Header]) -> dict[str, list[str]]:
    """Returns the names of the stored tensors that make each tensor of the model.

    The renaming and fusing is that of transformers. A stored tensor that the model has no place
    for is listed under its renamed name.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    keys = defaultdict(list)
    for key in headers:
        prefix = model.base_model_prefix
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:  # a rule for other names took it
            name, pattern = rename_source_key(key, [], [], prefix, state)
        for target in _targets(name, pattern, converters):
            keys[target].append(key)
    return dict(keys)


def check_checkpoint(
    folder: Path, model: PreTrainedModel, headers: dict[str, Header], keys: dict[str, list[str]]
) -> None:
    """Checks that every parameter has its tensors, and that what has a place fits there.

    A header fits by a floating-point dtype and the parameter's shape. Shapes of fused tensors are
    checked when they are fused; see `Source.load`.

    Args:
        keys: As `keys_by_tensor` returns it.

    Raises:
        UserError: Something is missing or does not fit; the message names the first.
    """
    for name, parameter in model.named_parameters():
        if name not in keys and name not in model.all_tied_weights_keys:
            raise UserError(
                f"{folder}: weights for {name} {tuple(parameter.shape)} are missing: {OTHER_MODEL}"
            )
    state = model.state_dict()
    for name, parts in keys.items():
        if name not in state:
            continue  # see `original.leftovers`
        header = headers[parts[0]]
        if state[name].is_floating_point() and header.dtype not in _FLOATS:
            raise UserError(
                f"{folder}: weights for {name} are stored as {header.dtype}; allowed: "
                f"{', '.join(_FLOATS)}: give the original 16- or 32-bit model"
            )
        if parts == [name] and header.shape != state[name].shape:
            raise mismatch(folder, name, header.shape, state[name].shape)


def mismatch(folder: Path, name: str, stored: Shape, needed: Shape) -> UserError:
    """Returns the error for stored weights of another shape than the model's."""
    return UserError(
        f"{folder}: weights for {name} are {tuple(stored)} in the files, but config.json makes "
        f"them {tuple(needed)}: it is another model's"
    )


def _targets(name: str, pattern: str | None, converters: list[WeightConverter]) -> list[str]:
    """Names of the model's tensors that a stored tensor goes into; several where it is split."""
    if pattern is None:
        return [name]
    converter = next(c for c in converters if pattern in c.source_patterns)
    first = converter.target_patterns[0]  # the one that `name` was made with
    return [name.replace(first, target) for target in converter.target_patterns]
