"""Finds the stored tensors of every parameter: what the files hold of the model of a config.

Where the two disagree, what transformers does is done, and said. Reads no values, but for two
tensors that the config ties and the files hold apart. Does not load; see `original.source`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from bitstack.errors import UserError, one_line
from bitstack.original.headers import (
    Header,
    check_checkpoint,
    keys_by_tensor,
    read_headers,
    stored_dtype,
)
from bitstack.original.leftovers import left_out_line, parts_left_out
from bitstack.original.skeleton import skeleton
from bitstack.original.ties import under_stored_names, untie, untied_by_files


@dataclass(frozen=True)
class Checkpoint:
    """The skeleton of a model folder, and where its weights are stored."""

    model: PreTrainedModel
    dtype: torch.dtype
    headers: dict[str, Header]  # checkpoint key -> what is stored there
    keys: dict[str, list[str]]  # tensor -> checkpoint keys
    remarks: list[str]  # what a user should know of it


def read_checkpoint(folder: Path, config: PretrainedConfig, files: list[Path]) -> Checkpoint:
    """Makes the skeleton of a folder and finds the stored tensors of every parameter.

    Where the files untie what the config ties, `config` is changed to say so.

    Raises:
        UserError: The config gives no causal language model, or the files are not that model's.
    """
    headers = read_headers(files)
    dtype: Any = config.dtype or stored_dtype(headers)
    model, remarks = _tied_as_stored(folder, config, dtype, headers)
    headers = under_stored_names(model, headers, keys_by_tensor(model, headers))
    keys = keys_by_tensor(model, headers)
    check_checkpoint(folder, model, headers, keys)
    known = model.state_dict()
    unknown = {n: headers[parts[0]].shape for n, parts in keys.items() if n not in known}
    if left_out := parts_left_out(folder, model, unknown):
        remarks.append(left_out_line(left_out))
    return Checkpoint(model, dtype, headers, keys, remarks)


def _tied_as_stored(
    folder: Path, config: PretrainedConfig, dtype: torch.dtype, headers: dict[str, Header]
) -> tuple[PreTrainedModel, list[str]]:
    """The skeleton, untied where the files hold other values, and what was done."""
    model = _skeleton(folder, config, dtype)
    untied = untied_by_files(model, headers, keys_by_tensor(model, headers), dtype)
    if not untied:
        return model, []
    untie(config)
    remark = (
        f"{untied[0]} is not tied, whatever config.json says: the files hold other values for it "
        "(as transformers loads it)"
    )
    return _skeleton(folder, config, dtype), [remark]


def _skeleton(folder: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    try:
        return skeleton(config, dtype)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: config.json gives no causal language model: {one_line(error)}"
        ) from None
