"""The bytes of a KV cache by passes without weights are those of a real cache of every kind."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DynamicCache,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
)

from bitstack.container.kv_cache import kv_cache_bytes
from bitstack.original.skeleton import skeleton

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=2),
    "gemma-3": Gemma3TextConfig(
        **SMALL,
        num_key_value_heads=1,
        head_dim=12,
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "mistral": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=10),
    "gpt-2": GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "falcon": FalconConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        multi_query=True,
        new_decoder_architecture=False,
    ),
    "deepseek-v3": DeepseekV3Config(
        **SMALL,
        num_key_value_heads=4,
        first_k_dense_replace=3,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=5,
    ),
}


@pytest.mark.parametrize("context", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("name", CONFIGS)
def test_kv_cache_agrees_with_a_real_one(name: str, context: int) -> None:
    config = CONFIGS[name]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    cache = DynamicCache(config=config)
    with torch.no_grad():
        model(torch.zeros(1, context, dtype=torch.long), past_key_values=cache)
    real = sum(x.numel() * x.element_size() for keys, values, _ in cache for x in (keys, values))
    assert kv_cache_bytes(skeleton(config, torch.float32), context) == real
    assert kv_cache_bytes(skeleton(config, torch.bfloat16), context) == real // 2


def test_no_attention_no_cache() -> None:
    assert kv_cache_bytes(skeleton(MambaConfig(num_hidden_layers=1), torch.float32), 100) is None
