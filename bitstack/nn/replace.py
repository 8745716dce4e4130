"""Puts packed modules in the place of a model's own, and finds them again.

Works on a skeleton: every stack starts at level 0. Does not read blocks; see `nn.assemble`.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from bitstack.container.blocks import StackSpec
from bitstack.nn.experts import PackedExperts
from bitstack.nn.modules import (
    PackedEmbedding,
    PackedLinear,
    PartedEmbedding,
    PartedLinear,
    TiedHead,
)
from bitstack.nn.stack import Stack
from bitstack.original.matrix import Matrix


def pack_model(model: nn.Module, matrices: list[Matrix], specs: list[StackSpec]) -> None:
    """Replaces the modules of `matrices` in `model` by empty stacks of `specs`, one a matrix."""
    shared: dict[str, list[tuple[Matrix, StackSpec]]] = {}
    for matrix, spec in zip(matrices, specs, strict=True):
        shared.setdefault(matrix.parameter, []).append((matrix, spec))
    for parameter, members in shared.items():
        kind = members[0][0].kind
        if kind == "expert":
            _pack_experts(model, parameter, members)
        elif kind == "embedding":
            _pack_embedding(model, members)
        else:
            _pack_linear(model, members)


def stacks(model: nn.Module) -> dict[str, Stack]:
    """Returns every stack of a packed model by the name of its matrix."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Stack)}


def resident_bytes(model: nn.Module) -> int:
    """Returns the bytes of all parameters and buffers that the model holds, shared ones once.

    Tensors on the meta device hold nothing.
    """
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers()) if not t.is_meta}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _pack_linear(model: nn.Module, members: list[tuple[Matrix, StackSpec]]) -> None:
    matrix, spec = members[0]
    old: Any = model.get_submodule(matrix.module)
    bias, dtype = getattr(old, "bias", None), old.weight.dtype
    packed: nn.Module
    if matrix.first_row is None:
        packed = PackedLinear(spec, bias, dtype)
    else:
        packed = PartedLinear([spec for _, spec in members], bias, dtype)
    for parameter in (matrix.parameter, *_shared_with(model, matrix.parameter)):
        _set(model, parameter.rpartition(".")[0], packed)


def _shared_with(model: Any, parameter: str) -> list[str]:
    """Other names of a parameter, of layers that share it; they are no ties of parameters now."""
    ties = getattr(model, "all_tied_weights_keys", {})
    names = [target for target, origin in ties.items() if origin == parameter]
    for name in names:
        _untie(model, name)
    return names


def _pack_embedding(model: nn.Module, members: list[tuple[Matrix, StackSpec]]) -> None:
    matrix, spec = members[0]
    old = model.get_submodule(matrix.module)
    assert isinstance(old, nn.Embedding)
    packed: PackedEmbedding | PartedEmbedding
    if matrix.first_row is None:
        packed = PackedEmbedding(spec, old, old.weight.dtype)
    else:
        packed = PartedEmbedding([spec for _, spec in members], old, old.weight.dtype)
    if matrix.tied:
        head = model.get_submodule(matrix.tied)
        _set(model, matrix.tied, TiedHead(packed, getattr(head, "bias", None)))
        _untie(model, f"{matrix.tied}.weight")
    if packed.original is not None:
        # Rows come from the stack at every call; an empty buffer keeps the name `weight`, and its
        # dtype, in which Gemma scales the rows.
        packed.original.padding_idx = None  # it masks gradients of rows, which are constants now
        empty = torch.empty(0, dtype=old.weight.dtype)
        del packed.original._parameters["weight"]
        packed.original.register_buffer("weight", empty, persistent=False)
    _set(model, matrix.module, packed)


def _pack_experts(
    model: nn.Module, parameter: str, members: list[tuple[Matrix, StackSpec]]
) -> None:
    dtype = model.get_parameter(parameter).dtype
    packed = PackedExperts([Stack(spec, dtype) for _, spec in members], members[0][0].transposed)
    for one in (parameter, *_shared_with(model, parameter)):
        name, _, key = one.rpartition(".")
        module = model.get_submodule(name)
        del module._parameters[key]
        setattr(module, key, packed)
        module._is_hf_initialized = True  # type: ignore[assignment]
    if isinstance(model, PreTrainedModel):
        model.set_experts_implementation("eager")  # the forward that takes one expert at a time


def _untie(model: Any, name: str) -> None:
    """Drops the head's weight from the ties, or transformers would tie what is no parameter now."""
    model.all_tied_weights_keys = {
        key: origin for key, origin in model.all_tied_weights_keys.items() if key != name
    }
    if isinstance(own := model._tied_weights_keys, dict):
        model._tied_weights_keys = {key: origin for key, origin in own.items() if key != name}


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    module._is_hf_initialized = True  # type: ignore[assignment]  # nothing here is random
    parent, _, key = name.rpartition(".")
    setattr(model.get_submodule(parent), key, module)
