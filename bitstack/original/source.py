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
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from bitstack.errors import UserError, one_line
from bitstack.machine.json_file import parse_json, read_bytes, reason_of
from bitstack.original.acceptance import check_config, refuse_adapter
from bitstack.original.checkpoint import read_checkpoint
from bitstack.original.file_names import TOKENIZER, files_beside
from bitstack.original.gguf_model import find_gguf, open_gguf
from bitstack.original.headers import OTHER_MODEL, Header, mismatch
from bitstack.original.hub_cache import Located, locate, name_in_cache
from bitstack.original.skeleton import module_and_key, tie
from bitstack.original.weight_files import fetch_weights, weight_files

_MOST_BYTES = 256 << 20  # of a tokenizer's file


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
    gguf: Path | None = None  # the file that the folder was made of
    _dtypes: dict[str, torch.dtype] = field(init=False)

    def __post_init__(self) -> None:
        named = self.model.named_parameters(remove_duplicate=False)
        self._dtypes = {name: p.dtype for name, p in named}

    @property
    def bytes(self) -> int:
        """Bytes of the original model in memory: parameters (tied ones once) and buffers."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(t.numel() * t.dtype.itemsize for t in tensors)

    @property
    def identity(self) -> list[Path]:
        """The files that make the model what it is: its config and weights, or its GGUF."""
        return [self.gguf] if self.gguf else [self.path / "config.json", *self.files]

    def tokenizer(self) -> Any:
        """Returns the folder's tokenizer."""
        return load_tokenizer(self.path)

    def load(self, parameters: list[str], *, device: str = "cpu") -> None:
        """Fills the named parameters of `model` with fp32 values.

        Raises:
            UserError: The tensors of the files do not make a parameter of its shape.
        """
        self._convert(self._origins(parameters), device)
        tie(self.model)
        for name in parameters:
            value = self.model.get_parameter(name)
            value.requires_grad_(False)
            value.data = value.data.float()

    def _origins(self, parameters: list[str]) -> list[str]:
        """The parameters under the names that hold them: of a tied pair, the origin's."""
        ties: dict[str, str] = self.model.all_tied_weights_keys
        return [ties.get(name, name) for name in parameters]

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
        for name in self._origins(parameters):
            module, key = module_and_key(self.model, name)
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
    """Opens a model folder, a GGUF, or a model named on the Hub; reads headers and buffers, no
    weights.

    Only where the files hold two tensors for a pair that the config ties, both are compared. A GGUF
    is dequantised into a folder first.

    Raises:
        UserError: It is missing, incomplete, already quantised or no causal language model.
    """
    place = locate(path)
    folder = place.folder
    if place.remote is None and not folder.is_dir():
        raise UserError(f"model {folder}: no such folder; give a Hugging Face model folder")
    refuse_adapter(folder)
    gguf, told = find_gguf(place), list[str]()
    if gguf:
        folder, told = open_gguf(gguf, place.folder if place.remote else None)
    config = load_config(folder)
    check_config(folder, config)
    if not gguf:
        fetch_weights(place, config)
    files = weight_files(folder, config)
    stored = read_checkpoint(folder, config, files)
    source = Source(
        path=folder,
        name=place.remote.name if place.remote else _name(place.folder, folder),
        config=config,
        dtype=stored.dtype,
        model=stored.model,
        files=files,
        headers=stored.headers,
        keys=stored.keys,
        remarks=told + stored.remarks,
        gguf=gguf,
    )
    source._convert([n for n, _ in source.model.named_buffers() if n in source.keys])
    return source


def _name(given: Path, folder: Path) -> str:
    """The name on the Hub, for a folder of its cache, or else that of the folder."""
    return name_in_cache(given) or folder.resolve().name


def load_config(folder: Path) -> PretrainedConfig:
    """Returns the config of a model folder or container.

    Raises:
        UserError: It cannot be read, or needs code of its repository.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a config's own code makes of wrong fields
        raise UserError(f"{folder}: config.json cannot be read: {one_line(error)}") from None


def load_tokenizer(folder: Path) -> Any:
    """Returns the tokenizer of a model folder or container.

    Raises:
        UserError: There is none that can be used.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever its code and that of tokenizers make of damage
        reason = _damaged_json(folder) or one_line(error)
        raise UserError(f"{folder}: no usable tokenizer: {reason}") from None
    # Of some families transformers makes an empty tokenizer where the folder has no files of one.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"{folder}: no usable tokenizer: it has no tokens but special ones")
    return tokenizer


def _damaged_json(folder: Path) -> str | None:
    """Names the first JSON file of a tokenizer that holds no object, and why."""
    for name in files_beside(folder, TOKENIZER):
        if name.endswith(".json"):
            try:
                if not isinstance(parse_json(read_bytes(folder / name, _MOST_BYTES)), dict):
                    return f"{name} holds no object"
            except (OSError, ValueError) as error:
                return f"{name}: {reason_of(error)}"
    return None


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
