"""Reads from a config what the attention of every layer looks like: heads, widths, windows.

Knows composite configs, layers with sizes of their own, latent attention and one key for all heads.
Does not count costs; see `metrics.capacity.attention_cost`. Does not size a KV cache, which only
the model's code decides; see `container.kv_cache`.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from bitstack.errors import UserError
from bitstack.original.config_facts import text_config, width

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "num_key_value_attention_heads")


@dataclass(frozen=True)
class LayerAttention:
    """The attention of one layer."""

    heads: int
    score: int  # width of a key in the score q·k
    value: int  # width of a value in the weighted sum
    cached: int  # numbers kept in the KV cache for every token
    window: int | None = None  # most keys that a query reads; None: all
    chunk: bool = False  # windows do not slide but start anew at every multiple of their length


def attention_by_layer(config: PretrainedConfig) -> list[LayerAttention]:
    """Returns the attention of every layer.

    Args:
        config: Config of a model; a composite one answers for its language model.

    Raises:
        UserError: The config has no attention heads, or a layer has no softmax attention.
    """
    config = text_config(config)
    _required(config, "num_attention_heads")
    layers = _required(config, "num_hidden_layers")
    kinds = _kinds(config, layers)
    unknown = sorted({*kinds} - {FULL, SLIDING, CHUNKED})
    if unknown:
        raise UserError(
            f"config of {config.model_type!r} has layers of kind {', '.join(unknown)}: their cost "
            f"per token is not defined here; counted are {FULL}, {SLIDING}, {CHUNKED}"
        )
    # Where layers differ, transformers gives every layer a config of its own.
    own = getattr(config, "per_layer_config", None) or [config] * layers
    return [_layer(one, kind) for one, kind in zip(own, kinds, strict=True)]


def published_sizes(config: PretrainedConfig) -> dict[str, int]:
    """Returns the sizes in the published count of FLOPs (arXiv 2511.08066), by its names.

    Raises:
        UserError: The config lacks one of them, or has latent attention.
    """
    config = text_config(config)
    if getattr(config, "kv_lora_rank", None):
        raise UserError(
            "latent attention (kv_lora_rank): the published count takes it from the model's name "
            "and is not defined here; use the variant 'bytes'"
        )
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    sizes = {name: _published(config, name) for name in (*names, "vocab_size")}
    heads = getattr(config, "num_key_value_heads", None) or sizes["num_attention_heads"]
    return sizes | {"num_key_value_heads": heads}


def _layer(config: Any, kind: str) -> LayerAttention:
    heads = _required(config, "num_attention_heads")
    windows = {"sliding_window": SLIDING, "attention_chunk_size": CHUNKED}
    window = next((getattr(config, n, None) for n, k in windows.items() if k == kind), None)
    return LayerAttention(heads, *_widths(config, heads), window, kind == CHUNKED)


def _widths(config: Any, heads: int) -> tuple[int, int, int]:
    """Returns (width of a key, width of a value, numbers cached for a token)."""
    rank = getattr(config, "kv_lora_rank", None)
    if rank:
        rotary = int(config.qk_rope_head_dim)
        return rank + rotary, rank, rank + rotary
    dim = getattr(config, "head_dim", None) or width(config) // heads
    return dim, dim, 2 * dim * _kv_heads(config, heads)


def _kv_heads(config: Any, heads: int) -> int:
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", 0):
        return 1  # Falcon-7B, GPT-BigCode
    return next((int(n) for name in _KV_HEADS if (n := getattr(config, name, None))), heads)


def _kinds(config: Any, layers: int) -> list[str]:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return list(kinds)
    if getattr(config, "layers_block_type", None) or getattr(config, "attn_layer_period", None):
        return ["a mixture with recurrent blocks"]
    window = getattr(config, "sliding_window", None)
    slides = window and getattr(config, "use_sliding_window", True)
    return [SLIDING if slides else FULL] * layers


def _required(config: Any, name: str) -> int:
    return _positive(
        config, name, "FLOPs per token are not defined for a model without attention heads"
    )


def _published(config: Any, name: str) -> int:
    return _positive(
        config, name, "the published FLOPs are not defined here; use the variant 'bytes'"
    )


def _positive(config: Any, name: str, consequence: str) -> int:
    """A number of the config from 1 on. Raises UserError, which tells the consequence."""
    value = getattr(config, name, None)
    if not isinstance(value, int) or value < 1:
        raise UserError(
            f"config of {config.model_type!r} has no {name} (found {value!r}): {consequence}"
        )
    return value
