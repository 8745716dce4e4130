"""Measures the importance of attention heads, feed-forward neurons and hidden units for the loss.

The importance of a unit is the mean over texts of |d loss / d mask|, where its output is multiplied
by a mask of 1 (arXiv 2311.07052, section 3). Layers are recognised by their projections (q, k, v, o
and gate, up, down). Does not cut anything; see `capacity_gap_pilot.pruning`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bitstack.errors import UserError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Importance:
    """Mean |d loss / d mask| of every unit."""

    heads: Tensor  # [layers, heads]
    neurons: Tensor  # [layers, feed-forward width]
    hidden: Tensor  # [hidden width], shared by all layers


def measure_importance(model: PreTrainedModel, sequences: Iterable[Tensor]) -> Importance:
    """Measures the importance of every unit; the model is unchanged.

    Args:
        sequences: Token ids, int64 [length] each.

    Raises:
        UserError: no sequence is given, or the model's layers have other projections than
            q, k, v, o and gate, up, down.
    """
    masks = _ones(model)
    sums = [torch.zeros_like(mask) for mask in masks]
    count = 0
    with _masked(model, *masks):
        for ids in sequences:
            loss = model(input_ids=ids[None], labels=ids[None], use_cache=False).loss
            for total, gradient in zip(sums, torch.autograd.grad(loss, masks), strict=True):
                total += gradient.abs()
            count += 1
    if count == 0:
        raise UserError("sequences: none given; importance needs at least one text")
    return Importance(*(total / count for total in sums))


def blocks(model: nn.Module, parts: tuple[str, ...]) -> list[tuple[str, Any]]:
    """Returns (name, module) of every module that has all the `parts`, in the model's order.

    Raises:
        UserError: no module has them.
    """
    modules = [(n, m) for n, m in model.named_modules() if all(hasattr(m, p) for p in parts)]
    if not modules:
        raise UserError(
            f"model {type(model).__name__}: no layer with {', '.join(parts)}; pruning needs a "
            "decoder of that kind (Llama, Mistral, Qwen)"
        )
    return modules


def head_dim(model: PreTrainedModel) -> int:
    """Returns the width of one attention head, from the config."""
    config = model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@contextmanager
def _masked(model: PreTrainedModel, heads: Tensor, neurons: Tensor, hidden: Tensor) -> Iterator:
    """Multiplies the outputs of units by their masks while the context is open.

    Hidden units are masked wherever something is added to the residual stream: after the embedding,
    o_proj and down_proj.
    """
    dim = head_dim(model)
    handles = []

    def inputs(mask: Tensor):  # type: ignore[no-untyped-def]
        return lambda _, args: (args[0] * mask, *args[1:])

    def outputs(_: nn.Module, __: tuple, result: Tensor) -> Tensor:
        return result * hidden

    for layer, (_, block) in enumerate(blocks(model, ATTENTION)):
        mask = heads[layer].repeat_interleave(dim)
        handles.append(block.o_proj.register_forward_pre_hook(inputs(mask)))
        handles.append(block.o_proj.register_forward_hook(outputs))
    for layer, (_, block) in enumerate(blocks(model, FEED_FORWARD)):
        handles.append(block.down_proj.register_forward_pre_hook(inputs(neurons[layer])))
        handles.append(block.down_proj.register_forward_hook(outputs))
    handles.append(model.get_input_embeddings().register_forward_hook(outputs))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ones(model: PreTrainedModel) -> list[Tensor]:
    config = model.config
    layers = len(blocks(model, ATTENTION))
    shapes = [(layers, config.num_attention_heads), (layers, config.intermediate_size)]
    return [torch.ones(s, requires_grad=True) for s in (*shapes, (config.hidden_size,))]
