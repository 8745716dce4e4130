"""Exports a container at a budget as a plain folder of dense weights, for tools without blocks.

Holds one decoder layer and one file of the output in memory. Names and layout of the tensors are
those of transformers' `save_pretrained`. Does not write containers; see `live.save`.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from bitstack.container.budget import Budget
from bitstack.container.entries import StackEntry
from bitstack.container.manifest import Manifest
from bitstack.container.reading import open_container
from bitstack.container.shards import Reader, grouped, write_files, write_index
from bitstack.container.skeleton_of import skeleton_of
from bitstack.errors import UserError
from bitstack.machine.files import disk_errors
from bitstack.machine.new_folder import check_new_folder, existing_folder
from bitstack.machine.progress import bar
from bitstack.machine.sizes import format_bytes
from bitstack.nn import Stack
from bitstack.nn.assemble import tensor_reader
from bitstack.original.decoder_layers import find_layers, layer_of
from bitstack.original.hub_cache import locate
from bitstack.original.side_files import config_of, copy_beside, write_config

FILE_BYTES = 1 << 30  # most bytes of one file, unless a single tensor is larger
_INDEX = "model.safetensors.index.json"


def export(
    path: str | Path,
    output: str | Path,
    budget: str | int | Budget | None = None,
    *,
    level: int | None = None,
    progress: bool = False,
) -> Path:
    """Writes the dense weights of a container at a budget, as a plain Hugging Face folder.

    The folder computes what `bitstack.load(path, budget, level=level)` computes, for tools that
    cannot read blocks (vLLM, llama.cpp, MLX). It is in the original's dtype, with tokenizer and
    generation config, and as large as the original. It appears whole or not at all.

    Args:
        path: Folder of a container, or `owner/name` on the Hub.
        output: New or empty folder to write to.
        budget: As in `bitstack.load`; None takes all blocks.
        level: Every matrix at this level (number of planes, from 1) instead of a budget.
        progress: Show a progress bar.

    Returns:
        Path of the folder.

    Raises:
        UserError: The container cannot be loaded at that budget, `output` is not a new or empty
            folder, or there is too little disk.

    Example:
        >>> import bitstack
        >>> from transformers import AutoModelForCausalLM
        >>> folder = bitstack.export("my-container", "dense-model", budget="50%")
        >>> model = AutoModelForCausalLM.from_pretrained(folder)
    """
    target = Path(output)
    check_new_folder(target)
    place = locate(path)
    folder = place.folder
    manifest, levels, reader = open_container(place, budget, level)
    model = skeleton_of(folder, manifest)
    tensors = _stored_tensors(model)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    _check_room(target, total)
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        with disk_errors(partial / _INDEX):
            partial.mkdir(parents=True)
            source = _DenseReader(tensors, manifest, levels, reader)
            _write(partial, _by_layer(model, source, progress), total)
            _write_beside(partial, folder, model, manifest.dtype)
            if target.is_dir():
                target.rmdir()
            partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        reader.close()
    return target


class _DenseReader:
    """Reads the tensors of the original model from a container, blocks as dense values."""

    def __init__(
        self, shapes: dict[str, Tensor], manifest: Manifest, levels: list[int], reader: Reader
    ) -> None:
        self.shapes, self.reader = shapes, reader
        self.stacks: dict[str, list[tuple[StackEntry, int]]] = defaultdict(list)
        for entry, level in zip(manifest.stacks, levels, strict=True):
            self.stacks[entry.parameter].append((entry, level))

    def get(self, name: str) -> Tensor:
        """Returns the parameter or buffer `name` of the original model, on the CPU."""
        if name not in self.stacks:
            return self.reader.get(name)
        value = torch.empty_like(self.shapes[name], device="cpu")
        for entry, level in self.stacks[name]:
            stack = Stack(entry.spec)
            stack.set_level(level, tensor_reader(self.reader, entry.name))
            entry.matrix.of(value).copy_(stack.dequantize())
        return value


def _stored_tensors(model: Any) -> dict[str, Tensor]:
    """Returns the tensors of a plain model folder, tied ones once, on the meta device."""
    tied = model.all_tied_weights_keys
    return {name: t for name, t in model.state_dict().items() if name not in tied}


def _by_layer(model: Any, source: _DenseReader, progress: bool) -> Iterator[tuple[str, Tensor]]:
    """Yields all tensors under their names on disk, a decoder layer at a time.

    Tensors that transformers fused (experts, for example) lie in one layer and are split again.
    """
    layers = find_layers(model)[0]
    groups: dict[int | None, list[str]] = defaultdict(list)
    for name in source.shapes:
        groups[layer_of(name, layers)].append(name)
    for names in bar(groups.values(), desc="export", show=progress, unit="layer"):
        state = {name: source.get(name) for name in names}
        for name, tensor in revert_weight_conversion(model, state).items():
            yield name, tensor.contiguous()


def _write(folder: Path, tensors: Iterator[tuple[str, Tensor]], total: int) -> None:
    weight_map = write_files(folder, grouped(tensors, FILE_BYTES), "model")
    files = set(weight_map.values())
    if len(files) == 1:
        (folder / files.pop()).rename(folder / "model.safetensors")
    else:
        write_index(folder / _INDEX, total, weight_map)


def _write_beside(folder: Path, container: Path, model: Any, dtype: str) -> None:
    config = config_of(model, container, dtype)
    del config.quantization_config
    write_config(config, folder)
    copy_beside(container, folder)


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(existing_folder(target)).free
    if free < needed:
        raise UserError(
            f"--output {target}: the dense model takes {format_bytes(needed)}, but "
            f"{format_bytes(free)} of disk are free; free some, or name a folder on another disk"
        )
