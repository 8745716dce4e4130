"""Cuts a smaller model out of a larger one: whole heads, feed-forward neurons and hidden units.

The least important units are cut. All layers keep the same counts, so the result is an ordinary
model of the same class with a smaller config. Does not measure importance, see
`capacity_gap_pilot.importance`; does not train the result, see `capacity_gap_pilot.distillation`.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bitstack.errors import UserError
from capacity_gap_pilot.importance import ATTENTION, FEED_FORWARD, Importance, blocks, head_dim


@dataclass(frozen=True)
class Shape:
    """The size of a decoder whose layers are all alike."""

    hidden: int  # width
    heads: int
    kv_heads: int
    intermediate: int  # feed-forward neurons of a layer
    parameters: int  # without embeddings and LM head


def body_parameters(model: nn.Module) -> int:
    """Returns the number of parameters without the embeddings and the LM head."""
    assert isinstance(model, PreTrainedModel)
    outside = {id(p) for part in _ends(model) for p in part.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in outside)


def student_shape(model: PreTrainedModel, parameters: int) -> Shape:
    """Returns the shape that has about `parameters` and keeps the same share of every part.

    Sparsity p of the model is 1 - sqrt(1 - p) of each part (arXiv 2311.07052). Heads and width are
    rounded, then the number of neurons makes up the difference. The number of layers stays.

    Args:
        parameters: Wanted, without embeddings and LM head.

    Raises:
        UserError: `parameters` is not above 0, or more than the model has.
    """
    whole = body_parameters(model)
    if not 0 < parameters <= whole:
        raise UserError(f"parameters: {parameters} is outside 1..{whole}, the size of the teacher")
    config, share = model.config, math.sqrt(parameters / whole)
    groups, heads = config.num_key_value_heads, config.num_attention_heads
    kv_heads, kept = _nearest_heads(groups, heads // groups, share * heads)
    hidden = _width(config.hidden_size, share, kept)
    fixed = _fixed_parameters(model, hidden, kept, kv_heads)
    per_neuron = config.num_hidden_layers * 3 * hidden
    neurons = min(config.intermediate_size, max(1, round((parameters - fixed) / per_neuron)))
    return Shape(hidden, kept, kv_heads, neurons, fixed + neurons * per_neuron)


def prune(model: PreTrainedModel, importance: Importance, shape: Shape) -> PreTrainedModel:
    """Returns a new model of `shape` with the most important units of `model`."""
    config = copy.deepcopy(model.config)
    config.head_dim = head_dim(model)
    config.hidden_size, config.intermediate_size = shape.hidden, shape.intermediate
    config.num_attention_heads, config.num_key_value_heads = shape.heads, shape.kv_heads
    student: Any = type(model)(config)
    student.to(next(model.parameters()).dtype)
    hidden = _largest(importance.hidden, shape.hidden)
    rows = dict(_layer_rows(model, importance, shape))
    source = dict(model.named_parameters())
    with torch.no_grad():
        for name, target in student.named_parameters():
            target.copy_(_cut(source[name], target, name, rows, hidden))
    result: PreTrainedModel = student.eval()
    return result


def _cut(
    weight: Tensor, target: Tensor, name: str, rows: dict[str, Tensor], hidden: Tensor
) -> Tensor:
    """Returns the part of `weight` that `target` holds.

    That is the kept units of the layer (rows; columns of o and down) and the kept hidden units.
    """
    keep = rows.get(name.rpartition(".")[0])
    if keep is None:  # embedding [vocabulary, width], LM head or norm [width]
        return weight if weight.shape == target.shape else weight.index_select(-1, hidden)
    if name.split(".")[-2] in ("o_proj", "down_proj"):
        return weight[hidden][:, keep] if weight.dim() == 2 else weight[hidden]
    return weight[keep][:, hidden] if weight.dim() == 2 else weight[keep]


def _layer_rows(
    model: PreTrainedModel, importance: Importance, shape: Shape
) -> Iterator[tuple[str, Tensor]]:
    """Yields (module name, kept output rows; for o and down kept input columns)."""
    dim, groups = head_dim(model), model.config.num_key_value_heads
    for layer, (name, _) in enumerate(blocks(model, ATTENTION)):
        scores = importance.heads[layer].view(groups, -1)
        kept = _largest(scores.sum(1), shape.kv_heads)
        inner = torch.stack([_largest(scores[g], shape.heads // shape.kv_heads) for g in kept])
        heads = (kept[:, None] * scores.shape[1] + inner).flatten()  # of the kept groups
        for part, units in zip(ATTENTION, (heads, kept, kept, heads), strict=True):
            yield f"{name}.{part}", (units[:, None] * dim + torch.arange(dim)).flatten()
    for layer, (name, _) in enumerate(blocks(model, FEED_FORWARD)):
        neurons = _largest(importance.neurons[layer], shape.intermediate)
        for part in FEED_FORWARD:
            yield f"{name}.{part}", neurons


def _nearest_heads(groups: int, per_group: int, wanted: float) -> tuple[int, int]:
    """Returns (key-value heads, heads) with heads nearest to `wanted`, both in proportion."""
    options = [(g, g * r) for g in range(1, groups + 1) for r in range(1, per_group + 1)]
    return min(options, key=lambda o: (abs(o[1] - wanted), abs(o[0] - wanted / per_group)))


def _width(whole: int, share: float, heads: int) -> int:
    """Returns about `share` of the width, as a multiple of the heads (and of 8 where possible)."""
    unit = 8 if 8 % heads == 0 else math.lcm(2, heads)
    return whole if share == 1 else min(whole, max(unit, unit * round(share * whole / unit)))


def _fixed_parameters(model: PreTrainedModel, hidden: int, heads: int, kv_heads: int) -> int:
    """Returns the parameters without embeddings, LM head, feed-forward layers and biases."""
    attention = 2 * hidden * head_dim(model) * (heads + kv_heads)
    return model.config.num_hidden_layers * (attention + 2 * hidden) + hidden


def _largest(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _ends(model: PreTrainedModel) -> list[nn.Module]:
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [part for part in ends if part is not None]
