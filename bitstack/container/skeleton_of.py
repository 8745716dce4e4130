"""Makes the skeleton of a container's model, after its config.json has been looked at.

A config can ask for a million layers or for tables of terabytes. So the model is first made without
any memory, no further than the manifest has tensors, and compared with it. Does not read tensors;
see `container.reading`.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from bitstack.container.manifest import Manifest
from bitstack.container.small_files import CONFIG, check_plain, check_sums, read_config
from bitstack.errors import UserError
from bitstack.machine.json_file import reason_of
from bitstack.original.skeleton import skeleton
from bitstack.original.source import load_config

_MOST_COUNT = 1 << 20  # layers, heads, experts, labels: configs make a list of each
_SPARE = 1000  # modules and parameters beside four for each tensor of the manifest


def skeleton_of(
    folder: Path, manifest: Manifest, *, dtype: torch.dtype | None = None, verify: bool = True
) -> PreTrainedModel:
    """Returns the skeleton of a container's model; see `original.skeleton`.

    Args:
        dtype: Of what is dense and of the activations; None for the container's own.
        verify: Whether the checksum of config.json is compared.

    Raises:
        UserError: config.json is damaged, or that of another model.
    """
    config = config_of_container(folder)
    dtype = dtype or getattr(torch, manifest.dtype)
    with _config_errors(folder):
        outline = _outline(copy.deepcopy(config), dtype, manifest)
    check_config(folder, outline, manifest)
    if verify:
        check_sums(folder, manifest, [CONFIG])
    with _config_errors(folder):
        return skeleton(config, dtype)


def config_of_container(folder: Path) -> PretrainedConfig:
    """Returns the config of a container.

    Raises:
        UserError: config.json is damaged, counts what no model has, or names code elsewhere.
    """
    check_plain(folder)
    _check_fields(folder, read_config(folder))
    return load_config(folder)


def check_config(folder: Path, model: nn.Module, manifest: Manifest) -> None:
    """Compares names and shapes of the model that config.json makes with those of the container.

    Raises:
        UserError: A tensor is missing on either side or has another shape.
    """
    state: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    made = {name: tuple(tensor.shape) for name, tensor in state.items()}
    made |= {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}
    held = {d.name: tuple(d.shape) for d in manifest.dense}
    for entry in manifest.stacks:
        rows = entry.matrix.own_rows.stop  # right for the last part, whose entry comes last
        shape = (rows, entry.columns)[:: -1 if entry.transposed else 1]
        experts = 1 + (entry.expert or 0)  # likewise for the last expert
        held[entry.parameter] = shape if entry.expert is None else (experts, *shape)
    tied = {f"{entry.tied}.weight" for entry in manifest.stacks if entry.tied}
    tied |= set(model.all_tied_weights_keys)  # type: ignore[arg-type]
    for name in sorted((made.keys() | held.keys()) - tied):
        if made.get(name) != held.get(name):
            raise UserError(
                f"{folder}: the container holds {name} {_shown(held.get(name))}, but config.json "
                f"makes it {_shown(made.get(name))}: config.json is another model's; copy the "
                "container again"
            )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "not at all" if shape is None else str(shape)


def _check_fields(folder: Path, fields: Any) -> None:
    """Refuses counts that would make long lists, and kernels that would be downloaded."""
    for value in fields if isinstance(fields, list) else ():
        _check_fields(folder, value)
    for key, value in fields.items() if isinstance(fields, dict) else ():
        counts = key.startswith(("num_", "n_")) or "layer" in key
        numbers = [value] if type(value) is int else value if isinstance(value, list) else []
        if counts and any(type(n) is int and n > _MOST_COUNT for n in numbers):
            raise UserError(
                f"{folder}: config.json asks for {key} = {str(value)[:60]}, more than any model "
                "has; copy the container again"
            )
        if key.endswith("implementation") and isinstance(value, str) and "/" in value:
            raise UserError(
                f"{folder}: config.json asks for code from elsewhere ({key} = {value[:100]}); "
                "delete the field"
            )
        _check_fields(folder, value)


def _outline(config: PretrainedConfig, dtype: torch.dtype, manifest: Manifest) -> Any:
    """Makes the model without memory, as far as it has no more parts than the manifest."""
    listed = len(manifest.stacks) + len(manifest.dense)
    with torch.device("meta"), no_init_weights(), _at_most(4 * listed + _SPARE):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        model.tie_weights()
    return model


@contextmanager
def _at_most(parts: int) -> Iterator[None]:
    """Within it, this thread can make so many modules and parameters; then ValueError is raised."""
    thread, made = threading.get_ident(), 0

    def count(module: nn.Module, name: str, part: Any) -> None:
        nonlocal made
        if part is not None and threading.get_ident() == thread:
            made += 1
        if made > parts:
            raise ValueError(f"more than {parts} parts, but the manifest has fewer tensors")

    handles = [
        hooks.register_module_module_registration_hook(count),
        hooks.register_module_parameter_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _config_errors(folder: Path) -> Iterator[None]:
    """Turns whatever a model's code raises for a config that it cannot use into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{folder}: config.json makes no model ({type(error).__name__}: {reason_of(error)}); "
            "copy the container again"
        ) from None
