"""Counts the bytes of a model's key and value cache by passes without weights.

A container holds what was counted, so that a plan needs neither torch nor the model's code; see
`container.entries`.
"""

from collections import defaultdict
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from bitstack.container.entries import CacheEntry
from bitstack.original.dry_pass import dry_pass

_SHORT, _LONGER, _LONG = 3, 4, 40  # tokens of the passes


def kv_cache_bytes(model: PreTrainedModel, context: int) -> int | None:
    """Returns the bytes that a model keeps of one sequence of `context` tokens; see `kv_cache`."""
    entries = kv_cache(model)
    return None if entries is None else sum(entry.bytes(context) for entry in entries)


def kv_cache(model: PreTrainedModel) -> list[CacheEntry] | None:
    """Returns what a model keeps of one sequence, for each length of window that its layers have.

    The model's own code fills caches of a few tokens, without weights; what a layer keeps of a
    token is the difference between two. Layers with a sliding window keep its last
    `sliding_window - 1` tokens, layers that share the cache of another keep nothing, recurrent
    states are the same for any length.

    Args:
        model: The model or its skeleton, in the dtype it runs in, not from packed blocks.

    Returns:
        The entries; None where the model keeps no such cache, its code does not run without values,
        or its cache grows in another way (40 tokens do not take what 3 and 4 tokens predict).
    """
    short, longer, long = (_cache(model, n) for n in (_SHORT, _LONGER, _LONG))
    if not short:
        return None
    entries = _entries(short, longer)
    grows_so = sum(entry.bytes(_LONG) for entry in entries) == sum(map(layer_bytes, long))
    return entries if grows_so else None


def _cache(model: PreTrainedModel, tokens: int) -> list[Any]:
    return layers_of(dry_pass(model, tokens=tokens).cache)


def _entries(short: list[Any], longer: list[Any]) -> list[CacheEntry]:
    sums: dict[int | None, list[int]] = defaultdict(lambda: [0, 0])
    for layer, after in zip(short, longer, strict=True):
        slides = isinstance(layer, DynamicSlidingWindowLayer)
        least = layer_bytes(layer)
        per_token = layer_bytes(after) - least
        of_window = sums[layer.sliding_window - 1 if slides else None]
        of_window[0] += least - per_token * _SHORT
        of_window[1] += per_token
    return [CacheEntry(window=w, fixed=f, per_token=p) for w, (f, p) in sums.items()]


def layers_of(cache: Any) -> list[Any]:
    """Returns the layers of a model's `past_key_values`, of the decoder where there are two."""
    return list(getattr(getattr(cache, "self_attention_cache", cache), "layers", None) or [])


def layer_bytes(layer: Any) -> int:
    """Returns the bytes of all tensors that one layer of a cache holds."""
    held = [x for x in tree_flatten(vars(layer))[0] if isinstance(x, Tensor) and x.ndim]
    return sum(t.numel() * t.element_size() for t in held)
