"""What attention costs beside its projections: scores, weighted sums and the KV cache, by layer.

Read from the config, since none of it is a weight. Latent attention is counted as its paper runs it
(DeepSeek-V2, arXiv 2405.04434, section 2.1): the latent and the shared rotary key are cached, and
every head attends to them directly. A sliding window or a chunk bounds the keys a layer reads.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from bitstack.errors import UserError

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True)
class AttentionCost:
    """One layer. A query meets each key with 2·`score` + 2·`value` FLOPs in each head.

    `cached` numbers are kept for every token; at most `window` keys are read (None: all);
    `chunk` windows start anew at every multiple of themselves.
    """

    heads: int
    score: int
    value: int
    cached: int
    window: int | None = None
    chunk: bool = False

    def flops(self, context: int, tokens: int) -> float:
        """Mean FLOPs per token of `tokens` tokens after `context` cached ones."""
        return 2 * self.heads * (self.score + self.value) * self._keys(context, tokens)

    def cache_numbers(self, context: int, tokens: int) -> float:
        """Mean numbers read from and written to the cache per token."""
        return self.cached * self._keys(context, tokens)

    def _keys(self, context: int, tokens: int) -> float:
        """Mean keys a token meets, itself among them, at positions context .. context+tokens-1."""
        first, last = context + 1, context + tokens
        return (self._sum_keys(last) - self._sum_keys(first - 1)) / tokens

    def _sum_keys(self, count: int) -> int:
        """Keys met by the first `count` tokens of a text together."""
        window = self.window
        if window is None or count <= window:
            return count * (count + 1) // 2
        if self.chunk:
            whole, rest = divmod(count, window)
            return whole * (window * (window + 1) // 2) + rest * (rest + 1) // 2
        return window * (window + 1) // 2 + (count - window) * window


def attention_layers(config: PretrainedConfig) -> list[AttentionCost]:
    """The attention of every layer of `config` (a language model's own, not a composite).

    Raises UserError if there are no attention heads, or a layer is of a kind not counted here.
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
    """Numbers per key and head in the score and in the sum, and numbers cached for a token."""
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
