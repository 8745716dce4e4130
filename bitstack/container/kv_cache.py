"""Counts the bytes of a model's key and value cache from its config alone; builds no model."""

from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from bitstack.errors import UserError


def kv_cache_bytes(config: PretrainedConfig, context: int, dtype_bytes: int = 2) -> int:
    """Returns the bytes of the keys and values that `DynamicCache` keeps of one sequence.

    Layers with a sliding window keep its last `sliding_window - 1` tokens, layers that share the
    cache of another keep nothing; recurrent states are not counted.

    Args:
        context: Tokens of the sequence.
        dtype_bytes: Bytes of one number.

    Raises:
        UserError: The model has no attention heads, and so no such cache.
    """
    text_config = config.get_text_config(decoder=True)
    if not getattr(text_config, "num_attention_heads", None):
        raise UserError(
            f"model type {text_config.model_type!r} has no attention heads in its config, so no "
            "KV cache to plan for; leave the context length out"
        )
    tokens = sum(_tokens_kept(layer, context) for layer in DynamicCache(config=config).layers)
    return tokens * _numbers_per_token(text_config) * dtype_bytes


def _tokens_kept(layer: object, context: int) -> int:
    if isinstance(layer, DynamicSlidingWindowLayer):
        return min(context, layer.sliding_window - 1)
    return context if isinstance(layer, DynamicLayer) else 0


def _numbers_per_token(config: PretrainedConfig) -> int:
    """Numbers that one layer keeps of one token: its keys and values in all heads."""
    if getattr(config, "kv_lora_rank", None):  # latent attention keeps one compressed vector
        return config.kv_lora_rank + config.qk_rope_head_dim
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * heads * size
