"""A config tells how the attention of every layer is built, whatever names it has for that."""

import pytest
from transformers import (
    DeepseekV3Config,
    FalconConfig,
    Gemma3Config,
    Gemma4TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    JambaConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    PretrainedConfig,
)

from bitstack.errors import UserError
from bitstack.original.attention_facts import (
    LayerAttention,
    attention_by_layer,
    published_sizes,
)


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (
            LlamaConfig(hidden_size=24, num_attention_heads=4, num_key_value_heads=2),
            LayerAttention(4, 6, 6, 24),
        ),
        (GPT2Config(n_embd=24, n_head=4), LayerAttention(4, 6, 6, 48)),
        (MptConfig(d_model=24, n_heads=4), LayerAttention(4, 6, 6, 48)),
        (FalconConfig(hidden_size=24, num_attention_heads=4), LayerAttention(4, 6, 6, 12)),
        (GPTBigCodeConfig(n_embd=24, n_head=4), LayerAttention(4, 6, 6, 12)),
        (
            MistralConfig(sliding_window=7, head_dim=6, num_attention_heads=4),
            LayerAttention(4, 6, 6, 96, 7),
        ),
        (
            Llama4TextConfig(attention_chunk_size=7, num_attention_heads=4, head_dim=6),
            LayerAttention(4, 6, 6, 96, 7, chunk=True),
        ),
        (
            DeepseekV3Config(num_attention_heads=4, kv_lora_rank=8, qk_rope_head_dim=2),
            LayerAttention(4, 10, 8, 10),
        ),
    ],
)
def test_the_first_layer(config: PretrainedConfig, first: LayerAttention) -> None:
    assert attention_by_layer(config)[0] == first


def test_a_composite_config_answers_for_its_language_model() -> None:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "sliding_window": 7}
    layers = attention_by_layer(Gemma3Config(text_config=sizes | {"num_hidden_layers": 6}))
    assert layers == [LayerAttention(4, 6, 6, 24, 7)] * 5 + [LayerAttention(4, 6, 6, 24)]


def test_layers_with_sizes_of_their_own() -> None:
    config = Gemma4TextConfig(
        num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        global_head_dim=10, sliding_window=7,
    )  # fmt: skip
    layers = attention_by_layer(config)
    assert layers == [LayerAttention(4, 6, 6, 24, 7)] * 5 + [LayerAttention(4, 10, 10, 40)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MambaConfig(num_hidden_layers=2), "no num_attention_heads"),
        (JambaConfig(num_hidden_layers=8, num_experts=2), "not defined here"),
    ],
)
def test_other_layers_are_refused(config: PretrainedConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attention_by_layer(config)


def test_sizes_of_the_published_count() -> None:
    config = LlamaConfig(hidden_size=24, num_attention_heads=4, num_hidden_layers=2, vocab_size=9)
    sizes = published_sizes(config)
    assert (sizes["hidden_size"], sizes["num_key_value_heads"], sizes["vocab_size"]) == (24, 4, 9)
    with pytest.raises(UserError, match="latent attention"):
        published_sizes(DeepseekV3Config())
