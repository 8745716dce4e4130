"""Counts the bytes of a model's key and value cache by passes without weights."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from bitstack.original.dry_pass import dry_pass

_SHORT, _LONGER = 3, 4  # tokens of two passes: their difference is what one token adds


def kv_cache_bytes(model: PreTrainedModel, context: int) -> int | None:
    """Returns the bytes that a model keeps of one sequence of `context` tokens.

    The model's own code fills two caches of a few tokens, without weights; what a layer keeps of
    a token is their difference. Layers with a sliding window keep its last `sliding_window - 1`
    tokens, layers that share the cache of another keep nothing, recurrent states are the same for
    any length.

    Args:
        model: The model or its skeleton, in the dtype it runs in, not from packed blocks.
        context: Tokens of the sequence.

    Returns:
        Bytes; None where the model keeps no such cache, or its code does not run without values.
    """
    short, longer = (layers_of(dry_pass(model, tokens=n).cache) for n in (_SHORT, _LONGER))
    if not short:
        return None
    return sum(_bytes(*pair, context) for pair in zip(short, longer, strict=True))


def layers_of(cache: Any) -> list[Any]:
    """Returns the layers of a model's `past_key_values`, of the decoder where there are two."""
    return list(getattr(getattr(cache, "self_attention_cache", cache), "layers", None) or [])


def layer_bytes(layer: Any) -> int:
    """Returns the bytes of all tensors that one layer of a cache holds."""
    held = [x for x in tree_flatten(vars(layer))[0] if isinstance(x, Tensor) and x.ndim]
    return sum(t.numel() * t.element_size() for t in held)


def _bytes(short: Any, longer: Any, context: int) -> int:
    kept = context
    if isinstance(short, DynamicSlidingWindowLayer):
        kept = min(context, short.sliding_window - 1)
    least = layer_bytes(short)
    return least + (layer_bytes(longer) - least) * (kept - _SHORT)
