"""A model folder, opened: its config, its skeleton without weights, and any part made real.

Weights come from the safetensors files through transformers' own conversion (renamed keys, fused
experts), for the asked modules only, so that one decoder layer at a time lies in memory. What is
done with the weights is not known here.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.initialization import no_init_weights
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from bitstack.errors import UserError


def skeleton(config: PretrainedConfig, dtype: torch.dtype) -> nn.Module:
    """The model of `config` with its parameters on the meta device and its buffers real."""
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    return model.eval()


def tie(model: Any) -> None:
    """Make every tied parameter the one it is tied to, where both are still parameters."""
    for target, origin in model.all_tied_weights_keys.items():
        module, key = _split(model, target)
        home, name = _split(model, origin)
        if key in module._parameters and name in home._parameters:
            module._parameters[key] = home._parameters[name]


@dataclass
class Source:
    """A model folder. `model` is its skeleton; `load` and `release` fill and empty parts of it."""

    path: Path
    config: PretrainedConfig
    dtype: torch.dtype
    model: nn.Module
    files: dict[str, Path]  # checkpoint key -> file
    keys: dict[str, list[str]] = field(default_factory=dict)  # parameter -> checkpoint keys

    @property
    def bytes(self) -> int:
        """Bytes of the original model in memory: parameters (tied ones once) and buffers."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(t.numel() * t.dtype.itemsize for t in tensors)

    def tokenizer(self) -> Any:
        """The folder's tokenizer."""
        return load_tokenizer(self.path)

    def load(self, parameters: list[str], *, device: str = "cpu") -> None:
        """Fill the named parameters of `model` with fp32 values."""
        wanted = [key for name in parameters for key in self.keys.get(name, ())]
        with _silent(), _opened({self.files[key] for key in wanted}) as files:
            state = {key: files[self.files[key]].get_slice(key) for key in wanted}
            convert_and_load_state_dict_in_model(
                self.model,
                state,
                LoadStateDictConfig(
                    device_map={"": device}, weight_mapping=get_model_conversion_mapping(self.model)
                ),
            )
        tie(self.model)
        for name in parameters:
            value = self.model.get_parameter(name)
            value.requires_grad_(False)
            value.data = value.data.float()

    def release(self, parameters: list[str]) -> None:
        """Put the named parameters back on the meta device."""
        for name in parameters:
            module, key = _split(self.model, name)
            empty = torch.empty_like(module._parameters[key], device="meta", dtype=self.dtype)
            module._parameters[key] = nn.Parameter(empty, requires_grad=False)
        tie(self.model)

    def check(self, name: str) -> torch.Tensor:
        """The value of a loaded parameter. UserError where it is missing, NaN or infinite."""
        value = self.model.get_parameter(name)
        if value.is_meta:
            raise UserError(f"{self.path}: no weights for {name} (the files lack this tensor)")
        if not torch.isfinite(value).all():
            raise UserError(
                f"{self.path}: weight {name} holds NaN or infinite values; a model with broken "
                "weights cannot be compressed: download or export it again"
            )
        return value


def open_source(path: str | Path) -> Source:
    """Open a model folder (or Hub name). UserError where it is missing, incomplete or not ours."""
    folder = _folder(path)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: config.json cannot be read: {_line(error)}") from None
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"{folder}: the model is already quantised (quantization_config in config.json); give "
            "the original 16- or 32-bit model"
        )
    files = _checkpoint_files(folder)
    dtype = config.dtype or _stored_dtype(files)
    try:
        model = skeleton(config, dtype)
    except ValueError as error:
        raise UserError(f"{folder}: not a causal language model: {_line(error)}") from None
    source = Source(folder, config, dtype, model, files)
    source.keys = _keys_by_parameter(model, files)
    _complete(source)
    return source


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder or container. UserError where there is none to use."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no usable tokenizer: {_line(error)}") from None


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists() or str(path).startswith((".", "/", "~")) or str(path).count("/") != 1:
        raise UserError(f"model {path}: no such folder; give a Hugging Face model folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(
                str(path), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"model {path}: no such folder, and the Hub did not give it: {_line(error)}"
        ) from None


def _checkpoint_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                files |= dict.fromkeys(opened.keys(), file)
        except Exception as error:  # safetensors raises its own undocumented error type
            raise UserError(f"{file}: cannot be read as safetensors: {_line(error)}") from None
    if not files:
        raise UserError(
            f"{folder}: no model*.safetensors file; save the model with save_pretrained first"
        )
    return files


def _keys_by_parameter(model: nn.Module, files: dict[str, Path]) -> dict[str, list[str]]:
    """Which checkpoint keys make which parameter, after transformers' renaming and fusing."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    keys = defaultdict(list)
    for key in files:
        name, pattern = rename_source_key(
            key, renamings, converters, model.base_model_prefix, state
        )
        for target in _targets(name, pattern, converters):
            keys[target].append(key)
    return dict(keys)


def _targets(name: str, pattern: str | None, converters: list[WeightConverter]) -> list[str]:
    """A converter names its first target; the others (a split) follow from its patterns."""
    if pattern is None:
        return [name]
    converter = next(c for c in converters if pattern in c.source_patterns)
    first = converter.target_patterns[0]
    return [name.replace(first, target) for target in converter.target_patterns]


def _complete(source: Source) -> None:
    tied = set(source.model.all_tied_weights_keys)
    for name, parameter in source.model.named_parameters():
        if name not in source.keys and name not in tied:
            raise UserError(
                f"{source.path}: weights for {name} {tuple(parameter.shape)} are missing: the "
                "folder is incomplete or its config.json is another model's"
            )


def _stored_dtype(files: dict[str, Path]) -> torch.dtype:
    key, file = next(iter(files.items()))
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(key).dtype


@contextmanager
def _opened(paths: set[Path]) -> Iterator[dict[Path, Any]]:
    yield {path: safe_open(path, framework="pt") for path in paths}


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' own bar, which would be drawn for every layer."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _split(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    module, _, key = name.rpartition(".")
    return model.get_submodule(module), key


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
