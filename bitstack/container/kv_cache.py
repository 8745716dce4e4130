"""Counts the bytes of a model's key and value cache by passes without weights."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from bitstack.original.dry_pass import dry_pass

_SHORT, _LONGER, _LONG = 3, 4, 40  # tokens of the passes


def kv_cache_bytes(model: PreTrainedModel, context: int) -> int | None:
    """Returns the bytes that a model keeps of one sequence of `context` tokens.

    The model's own code fills caches of a few tokens, without weights; what a layer keeps of a
    token is the difference between two. Layers with a sliding window keep its last
    `sliding_window - 1` tokens, layers that share the cache of another keep nothing, recurrent
    states are the same for any length.

    Args:
        model: The model or its skeleton, in the dtype it runs in, not from packed blocks.
        context: Tokens of the sequence.

    Returns:
        Bytes; None where the model keeps no such cache, its code does not run without values, or
        its cache grows in another way (the cache of 40 tokens is not what 3 and 4 tokens predict).
    """
    short, longer, long = (_cache(model, n) for n in (_SHORT, _LONGER, _LONG))
    if not short or _bytes(short, longer, _LONG) != sum(map(layer_bytes, long)):
        return None
    return _bytes(short, longer, context)


def _cache(model: PreTrainedModel, tokens: int) -> list[Any]:
    return layers_of(dry_pass(model, tokens=tokens).cache)


def _bytes(short: list[Any], longer: list[Any], context: int) -> int:
    total = 0
    for layer, after in zip(short, longer, strict=True):
        window = layer.sliding_window - 1 if isinstance(layer, DynamicSlidingWindowLayer) else None
        kept = context if window is None else min(context, window)
        least = layer_bytes(layer)
        total += least + (layer_bytes(after) - least) * (kept - _SHORT)
    return total


def layers_of(cache: Any) -> list[Any]:
    """Returns the layers of a model's `past_key_values`, of the decoder where there are two."""
    return list(getattr(getattr(cache, "self_attention_cache", cache), "layers", None) or [])


def layer_bytes(layer: Any) -> int:
    """Returns the bytes of all tensors that one layer of a cache holds."""
    held = [x for x in tree_flatten(vars(layer))[0] if isinstance(x, Tensor) and x.ndim]
    return sum(t.numel() * t.element_size() for t in held)
