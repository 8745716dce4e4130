"""Counts what attention costs beside its projections: scores, weighted sums and the KV cache.

Latent attention is counted as its paper runs it (DeepSeek-V2, arXiv 2405.04434, section 2.1): the
latent and the shared rotary key are cached, and every head attends to them directly. A sliding
window or a chunk bounds the keys that a layer reads. Does not read configs, see
`original.attention_facts`, and does not count the projections, see `metrics.capacity.flops`.
"""

from dataclasses import asdict, dataclass

from transformers import PretrainedConfig

from bitstack.original.attention_facts import LayerAttention, attention_by_layer


@dataclass(frozen=True)
class AttentionCost(LayerAttention):
    """Attention of one layer: each query and key cost 2·`score` + 2·`value` FLOPs in each head."""

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

    Raises:
        UserError: The config has no attention heads, or a layer has no softmax attention.
    """
    return [AttentionCost(**asdict(layer)) for layer in attention_by_layer(config)]
