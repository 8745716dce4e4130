"""Counts what attention costs beside its projections: scores, weighted sums and the KV cache.

Everything is read from the config, since none of it is a weight. Latent attention is counted as its
paper runs it (DeepSeek-V2, arXiv 2405.04434, section 2.1): the latent and the shared rotary key are
cached, and every head attends to them directly. A sliding window or a chunk bounds the keys that a
layer reads. Does not count the projections; see `metrics.capacity.flops`.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from bitstack.errors import UserError

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True)
class AttentionCost:
    """Attention of one layer: each query and key cost 2·`score` + 2·`value` FLOPs in each head."""

    heads: int
    score: int  # width of a key in the score q·k
    value: int  # width of a value in the weighted sum
    cached: int  # numbers kept in the KV cache for every token
    window: int | None = None  # most keys that a query reads; None: all
    chunk: bool = False  # windows do not slide but start anew at every multiple of their length

    def flops(self, context: int, tokens: int) -> float:
        """Returns the mean FLOPs of each of `tokens` tokens after `context` cached ones."""
        return 2 * self.heads * (self.score + self.value) * self._keys(context, tokens)

    def cache_numbers(self, context: int, tokens: int) -> float:
        """Returns the mean count of numbers that each token reads from the KV cache or adds."""
        return self.cached * self._keys(context, tokens)

    def _keys(self, context: int, tokens: int) -> float:
        """Returns the mean keys of a query, its own among them, after `context` cached tokens."""
        first, last = context + 1, context + tokens
        return (self._sum_keys(last) - self._sum_keys(first - 1)) / tokens

    def _sum_keys(self, count: int) -> int:
        """Returns the sum of the keys of the first `count` queries of a text."""
        window = self.window
        if window is None or count <= window:
            return count * (count + 1) // 2
        if self.chunk:
            whole, rest = divmod(count, window)
            return whole * (window * (window + 1) // 2) + rest * (rest + 1) // 2
        return window * (window + 1) // 2 + (count - window) * window


def attention_layers(config: PretrainedConfig) -> list[AttentionCost]:
    """Returns the attention cost of every layer.

    Args:
        config: Config of the language model itself, not of a composite model.

    Raises:
        UserError: there are no attention heads, or a layer has no softmax attention.
    """
    heads, layers = _positive(config, "num_attention_heads"), _positive(config, "num_hidden_layers")
    kinds = _kinds(config, layers)
    windows = {FULL: None, SLIDING: _window(config), CHUNKED: _chunk(config)}
    unknown = sorted(set(kinds) - set(windows))
    if unknown:
        raise UserError(
            f"config of {config.model_type!r} has layers of kind {', '.join(unknown)}: their cost "
            f"per token is not defined here; counted are {', '.join(windows)}"
        )
    score, value, cached = _widths(config, heads)
    return [
        AttentionCost(heads, score, value, cached, windows[kind], kind == CHUNKED) for kind in kinds
    ]


def _widths(config: PretrainedConfig, heads: int) -> tuple[int, int, int]:
    """Returns (width of a key, width of a value, numbers cached for a token)."""
    rank = getattr(config, "kv_lora_rank", None)
    if rank:
        rotary = int(config.qk_rope_head_dim)
        return rank + rotary, rank, rank + rotary
    dim = getattr(config, "head_dim", None) or _positive(config, "hidden_size") // heads
    return dim, dim, 2 * dim * _kv_heads(config, heads)


def _kv_heads(config: Any, heads: int) -> int:
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", 0):
        return 1  # Falcon-7B, GPT-BigCode
    for name in ("num_key_value_heads", "num_kv_heads"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return heads


def _kinds(config: PretrainedConfig, layers: int) -> list[str]:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return list(kinds)
    if getattr(config, "layers_block_type", None) or getattr(config, "attn_layer_period", None):
        return ["a mixture with recurrent blocks"]
    sliding = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    return [SLIDING if sliding else FULL] * layers


def _window(config: PretrainedConfig) -> int | None:
    return getattr(config, "sliding_window", None)


def _chunk(config: PretrainedConfig) -> int | None:
    return getattr(config, "attention_chunk_size", None)


def _positive(config: PretrainedConfig, name: str) -> int:
    value = getattr(config, name, None)
    if not isinstance(value, int) or value < 1:
        raise UserError(
            f"config of {config.model_type!r} has no {name} (found {value!r}): FLOPs per token are "
            "not defined for a model without attention heads"
        )
    return value
