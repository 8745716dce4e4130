"""Opens a model folder: its config, its skeleton without weights, and weights part by part.

Weights come from the safetensors files through transformers' own conversion (renamed keys, fused
experts), for the named parameters only, so that one decoder layer at a time lies in memory. Does
not choose which weights are decomposed; see `original.matrices`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.initialization import no_init_weights
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from bitstack.errors import UserError
from bitstack.original.acceptance import check_config, refuse_adapter
from bitstack.original.headers import (
    OTHER_MODEL,
    Header,
    check_checkpoint,
    keys_by_tensor,
    mismatch,
    one_line,
    read_headers,
    stored_dtype,
)
from bitstack.original.hub_cache import Located, locate
from bitstack.original.leftovers import left_out_line, parts_left_out
from bitstack.original.ties import under_stored_names, untie, untied_by_files
from bitstack.original.weight_files import fetch_weights, weight_files


def skeleton(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the model of `config` with parameters on the meta device and real buffers.

    Dtypes are those that `from_pretrained` would give.
    """
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    widen(model, dtype)
    with torch.no_grad():
        model.initialize_weights()  # buffers that a constructor makes in `dtype` alone
    model.tie_weights()
    return model.eval()


def widen(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Casts to fp32 what transformers keeps in fp32 whatever the dtype, such as routers."""
    kept = model._get_dtype_plan(dtype)  # pattern of names -> dtype
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        for pattern, wide in kept.items():
            if pattern in name:
                tensor.data = tensor.data.to(wide)


def tie(model: Any) -> None:
    """Makes tied parameters one object again, where both are still parameters."""
    for target, origin in model.all_tied_weights_keys.items():
        module, key = _module_and_key(model, target)
        home, name = _module_and_key(model, origin)
        if key in module._parameters and name in home._parameters:
            module._parameters[key] = home._parameters[name]


@dataclass
class Source:
    """A model folder. `model` is its skeleton; `load` and `release` fill and empty parts of it."""

    path: Path
    name: str  # on the Hub, or of the folder
    config: PretrainedConfig
    dtype: torch.dtype
    model: PreTrainedModel
    files: list[Path]  # that hold the weights
    headers: dict[str, Header]  # checkpoint key -> what is stored there
    keys: dict[str, list[str]]  # tensor -> checkpoint keys
    remarks: list[str]  # what a user should know of how it was read
    _dtypes: dict[str, torch.dtype] = field(init=False)

    def __post_init__(self) -> None:
        self._dtypes = {name: p.dtype for name, p in self.model.named_parameters()}

    @property
    def bytes(self) -> int:
        """Bytes of the original model in memory: parameters (tied ones once) and buffers."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(t.numel() * t.dtype.itemsize for t in tensors)

    @property
    def identity(self) -> list[Path]:
        """The files that make the model what it is: its config and its weights."""
        return [self.path / "config.json", *self.files]

    def tokenizer(self) -> Any:
        """Returns the folder's tokenizer."""
        return load_tokenizer(self.path)

    def load(self, parameters: list[str], *, device: str = "cpu") -> None:
        """Fills the named parameters of `model` with fp32 values.

        Raises:
            UserError: The tensors of the files do not make a parameter of its shape.
        """
        self._convert(parameters, device)
        tie(self.model)
        for name in parameters:
            value = self.model.get_parameter(name)
            value.requires_grad_(False)
            value.data = value.data.float()

    def _convert(self, names: list[str], device: str = "cpu") -> None:
        """Reads the named tensors, renamed and fused by transformers' own rules."""
        wanted = [key for name in names for key in self.keys.get(name, ())]
        mapping: Any = get_model_conversion_mapping(self.model)
        with _no_progress_bar():
            paths = {self.headers[key].file for key in wanted}
            files = {path: safe_open(path, framework="pt") for path in paths}
            state = {
                key: files[self.headers[key].file].get_slice(self.headers[key].key)
                for key in wanted
            }
            options = LoadStateDictConfig(device_map={"": device}, weight_mapping=mapping)
            info, _ = convert_and_load_state_dict_in_model(self.model, state, options)
        for name, stored, needed in sorted(info.mismatched_keys):
            raise mismatch(self.path, name, stored, needed)
        for name in info.conversion_errors:
            raise UserError(
                f"{self.path}: weights for {name} cannot be made of the stored ones: {OTHER_MODEL}"
            )

    def release(self, parameters: list[str]) -> None:
        """Puts the named parameters back on the meta device, which frees their memory."""
        for name in parameters:
            module, key = _module_and_key(self.model, name)
            empty = torch.empty_like(
                self.model.get_parameter(name), device="meta", dtype=self._dtypes[name]
            )
            module._parameters[key] = nn.Parameter(empty, requires_grad=False)
        tie(self.model)

    def check(self, name: str) -> torch.Tensor:
        """Returns the value of a loaded parameter.

        Raises:
            UserError: The files lack it, or it holds NaN or infinite values.
        """
        value = self.model.get_parameter(name)
        if value.is_meta:
            raise UserError(f"{self.path}: no weights for {name} (the files lack this tensor)")
        # In pieces: the intermediate tensors of isfinite are larger than the weight.
        if not all(torch.isfinite(part).all() for part in value.flatten().split(1 << 22)):
            raise UserError(
                f"{self.path}: weight {name} holds NaN or infinite values; a model with broken "
                "weights cannot be compressed: download or export it again"
            )
        return value


def open_source(path: str | Path | Located) -> Source:
    """Opens a model folder or a model named on the Hub; reads headers and buffers, no weights.

    Only where the files hold two tensors for a pair that the config ties, both are compared.

    Raises:
        UserError: It is missing, incomplete, already quantised or no causal language model.
    """
    place = locate(path)
    folder = place.folder
    if not folder.is_dir():
        raise UserError(f"model {folder}: no such folder; give a Hugging Face model folder")
    refuse_adapter(folder)
    config = load_config(folder)
    check_config(folder, config)
    fetch_weights(place, config)
    files = weight_files(folder, config)
    source = _fitted(folder, config, files)
    source.name = place.remote.name if place.remote else folder.resolve().name
    source._convert([n for n, _ in source.model.named_buffers() if n in source.keys])
    return source


def _fitted(folder: Path, config: PretrainedConfig, files: list[Path]) -> Source:
    """Makes the skeleton of a folder and finds the stored tensors of every parameter."""
    headers, remarks = read_headers(files), []
    dtype: Any = config.dtype or stored_dtype(headers)
    model = _skeleton_of(folder, config, dtype)
    keys = keys_by_tensor(model, headers)
    if untied := untied_by_files(model, headers, keys, dtype):
        untie(config)
        model = _skeleton_of(folder, config, dtype)
        remarks.append(
            f"{untied[0]} is not tied, whatever config.json says: the files hold other values for "
            "it (as transformers loads it)"
        )
    headers = under_stored_names(model, headers, keys)
    keys = keys_by_tensor(model, headers)
    check_checkpoint(folder, model, headers, keys)
    known = model.state_dict()
    unknown = {n: headers[parts[0]].shape for n, parts in keys.items() if n not in known}
    if left_out := parts_left_out(folder, model, unknown):
        remarks.append(left_out_line(left_out))
    return Source(folder, folder.name, config, dtype, model, files, headers, keys, remarks)


def _skeleton_of(folder: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    try:
        return skeleton(config, dtype)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: config.json gives no causal language model: {one_line(error)}"
        ) from None


def load_config(folder: Path) -> PretrainedConfig:
    """Returns the config of a model folder or container.

    Raises:
        UserError: It cannot be read, or needs code of its repository.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise UserError(f"{folder}: config.json cannot be read: {one_line(error)}") from None


def load_tokenizer(folder: Path) -> Any:
    """Returns the tokenizer of a model folder or container.

    Raises:
        UserError: There is none that can be used.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no usable tokenizer: {one_line(error)}") from None
    # Of some families transformers makes an empty tokenizer where the folder has no files of one.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"{folder}: no usable tokenizer: it has no tokens but special ones")
    return tokenizer


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hides transformers' own bar, which would be drawn for every layer."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _module_and_key(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    module, _, key = name.rpartition(".")
    return model.get_submodule(module), key
