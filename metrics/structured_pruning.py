"""A smaller model cut out of a larger one: whole heads, feed-forward neurons and hidden units.

What is cut is what the loss would miss least: the mean over texts of |d loss / d mask|, a mask of
ones standing on every head, neuron and hidden unit (arXiv 2311.07052, section 3). All layers keep
the same counts, so the result is a plain model of the same class with a smaller config. Layers are
recognised by their projections (q, k, v, o and gate, up, down). Training the result, and choosing
which size to cut, is left to the caller.
"""

import copy
import math
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
class Shape:
    """Counts of one uniform decoder; `parameters` leaves embeddings and LM head out."""

    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    parameters: int


@dataclass(frozen=True)
class Importance:
    """Mean |d loss / d mask|: heads [layers, heads], neurons [layers, ffn], hidden [width]."""

    heads: Tensor
    neurons: Tensor
    hidden: Tensor


def body_parameters(model: nn.Module) -> int:
    """Parameters without the embeddings and the LM head."""
    assert isinstance(model, PreTrainedModel)
    outside = {id(p) for part in _ends(model) for p in part.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in outside)


def measure_importance(model: PreTrainedModel, sequences: Iterable[Tensor]) -> Importance:
    """Mean over `sequences` (int64 [length] each) of |d loss / d mask|; the model is unchanged.

    Raises UserError for a model whose layers are not of the q/k/v/o, gate/up/down kind.
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


def student_shape(model: PreTrainedModel, parameters: int) -> Shape:
    """The shape of `parameters` (without embeddings) that keeps the same share of every part.

    Sparsity p of the model is 1 - sqrt(1 - p) of each part (arXiv 2311.07052): heads and width are
    rounded, then the neurons make up the difference. Depth stays.
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
    """A new model of `shape`: the most important heads, neurons and hidden units of `model`."""
    config = copy.deepcopy(model.config)
    config.head_dim = _head_dim(model)
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
    """The part of `weight` that `target` holds: rows (or, of o and down, columns) and units."""
    keep = rows.get(name.rpartition(".")[0])
    if keep is None:  # embedding [vocabulary, width], LM head or norm [width]
        return weight if weight.shape == target.shape else weight.index_select(-1, hidden)
    if name.split(".")[-2] in ("o_proj", "down_proj"):
        return weight[hidden][:, keep] if weight.dim() == 2 else weight[hidden]
    return weight[keep][:, hidden] if weight.dim() == 2 else weight[keep]


def _layer_rows(
    model: PreTrainedModel, importance: Importance, shape: Shape
) -> Iterator[tuple[str, Tensor]]:
    """(module name, kept output rows; kept input columns for o and down) of every projection."""
    dim, groups = _head_dim(model), model.config.num_key_value_heads
    for layer, (name, _) in enumerate(_blocks(model, ATTENTION)):
        scores = importance.heads[layer].view(groups, -1)
        kept = _largest(scores.sum(1), shape.kv_heads)
        inner = torch.stack([_largest(scores[g], shape.heads // shape.kv_heads) for g in kept])
        heads = (kept[:, None] * scores.shape[1] + inner).flatten()
        for part, units in zip(ATTENTION, (heads, kept, kept, heads), strict=True):
            yield f"{name}.{part}", (units[:, None] * dim + torch.arange(dim)).flatten()
    for layer, (name, _) in enumerate(_blocks(model, FEED_FORWARD)):
        neurons = _largest(importance.neurons[layer], shape.intermediate)
        for part in FEED_FORWARD:
            yield f"{name}.{part}", neurons


@contextmanager
def _masked(model: PreTrainedModel, heads: Tensor, neurons: Tensor, hidden: Tensor) -> Iterator:
    """Hooks that multiply what the masks stand on; hidden units where the stream is written to."""
    dim = _head_dim(model)
    handles = []

    def inputs(mask: Tensor):  # type: ignore[no-untyped-def]
        return lambda _, args: (args[0] * mask, *args[1:])

    def outputs(_: nn.Module, __: tuple, result: Tensor) -> Tensor:
        return result * hidden

    for layer, (_, block) in enumerate(_blocks(model, ATTENTION)):
        mask = heads[layer].repeat_interleave(dim)
        handles.append(block.o_proj.register_forward_pre_hook(inputs(mask)))
        handles.append(block.o_proj.register_forward_hook(outputs))
    for layer, (_, block) in enumerate(_blocks(model, FEED_FORWARD)):
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
    layers = len(_blocks(model, ATTENTION))
    shapes = [(layers, config.num_attention_heads), (layers, config.intermediate_size)]
    return [torch.ones(s, requires_grad=True) for s in (*shapes, (config.hidden_size,))]


def _blocks(model: nn.Module, parts: tuple[str, ...]) -> list[tuple[str, Any]]:
    found = [(n, m) for n, m in model.named_modules() if all(hasattr(m, p) for p in parts)]
    if not found:
        raise UserError(
            f"model {type(model).__name__}: no layer with {', '.join(parts)}; pruning needs a "
            "decoder of that kind (Llama, Mistral, Qwen)"
        )
    return found


def _nearest_heads(groups: int, per_group: int, wanted: float) -> tuple[int, int]:
    """(key-value heads, heads) with heads nearest to `wanted`, key-value heads in proportion."""
    options = [(g, g * r) for g in range(1, groups + 1) for r in range(1, per_group + 1)]
    return min(options, key=lambda o: (abs(o[1] - wanted), abs(o[0] - wanted / per_group)))


def _width(whole: int, share: float, heads: int) -> int:
    """About `share` of the width, a multiple of 8 if it can be; configs want one of the heads."""
    unit = 8 if 8 % heads == 0 else math.lcm(2, heads)
    return whole if share == 1 else min(whole, max(unit, unit * round(share * whole / unit)))


def _fixed_parameters(model: PreTrainedModel, hidden: int, heads: int, kv_heads: int) -> int:
    """Body parameters of the cut model without its feed-forward layers (no biases)."""
    attention = 2 * hidden * _head_dim(model) * (heads + kv_heads)
    return model.config.num_hidden_layers * (attention + 2 * hidden) + hidden


def _head_dim(model: PreTrainedModel) -> int:
    config = model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _largest(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _ends(model: PreTrainedModel) -> list[nn.Module]:
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [part for part in ends if part is not None]
