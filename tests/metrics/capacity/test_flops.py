"""FLOPs and bytes against published values, torch's own FLOP counter, and counts by hand.

Also covers `metrics.capacity.attention_cost`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    JambaConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

import pico
from bitstack.container.blocks import StackSpec
from bitstack.errors import UserError
from bitstack.live.loading import load
from bitstack.metrics.capacity.attention_cost import AttentionCost, attention_layers
from bitstack.metrics.capacity.flops import module_bytes, published_flops, token_cost
from bitstack.nn.modules import PackedLinear

LLAMA_3_8B = LlamaConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
)
QWEN3_06B = Qwen3Config(
    hidden_size=1024,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=3072,
    vocab_size=151936,
    tie_word_embeddings=True,
)


def on_meta(config: PretrainedConfig) -> nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("config", "flops"), [(LLAMA_3_8B, 1.527e10), (QWEN3_06B, 1.074e9)])
def test_published_flops(config: PretrainedConfig, flops: float) -> None:
    # The published values are cut, not rounded, to four digits.
    assert flops <= published_flops(config, 1024) < flops * 1.001


def test_head_dim_of_the_config_counts_where_the_published_count_ignores_it() -> None:
    d, heads, kv, layers = 1024, 16 * 128, 8 * 128, 28
    linear = layers * 2 * (2 * d * heads + 2 * d * kv + 3 * d * 3072)
    cost = token_cost(on_meta(QWEN3_06B), tokens=1024)
    assert cost.linear_flops == linear
    assert cost.head_flops == 2 * d * 151936
    assert cost.attention_flops == layers * 4 * heads * 512.5
    assert cost.flops > 1.2 * published_flops(QWEN3_06B)


@pytest.mark.parametrize("name", pico.FAMILIES)
@pytest.mark.parametrize("context", [3, 40])
def test_one_step_with_a_cache_is_what_torch_counts(name: str, context: int) -> None:
    model = pico.build(name)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    ids = torch.randint(pico.VOCABULARY, (1, context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
        counter = FlopCounterMode(display=False)
        with counter:
            model(ids[:, :1], past_key_values=cache, use_cache=True)
    # Rotary angles are products too for torch, and not counted here.
    assert token_cost(model, context=context).flops == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )


def test_bytes_are_each_weight_once_and_one_row_of_the_embedding() -> None:
    model = pico.build("llama-untied")
    embedding = model.get_input_embeddings().weight
    everything = sum(p.numel() for p in model.parameters()) * 4
    cost = token_cost(model, context=9)
    assert cost.weight_bytes == everything - embedding.numel() * 4 + embedding.shape[1] * 4
    assert cost.cache_bytes == 2 * 2 * 32 * 10 * 4  # layers, key and value, width, tokens, fp32
    assert module_bytes(model) > cost.weight_bytes


def test_a_tied_head_reads_the_embedding() -> None:
    tied, untied = token_cost(pico.build("llama-tied")), token_cost(pico.build("llama-untied"))
    assert (tied.flops, tied.weight_bytes) == (untied.flops, untied.weight_bytes)


def test_a_token_reads_its_active_experts_only() -> None:
    config = pico.FAMILIES["mixtral"]()
    one, all_ = (
        token_cost(on_meta(type(config)(**config.to_dict() | {"num_experts_per_tok": k})))
        for k in (1, 4)
    )
    expert = 3 * config.hidden_size * config.intermediate_size * config.num_hidden_layers
    assert all_.linear_flops - one.linear_flops == 2 * 3 * expert
    assert all_.weight_bytes - one.weight_bytes == 4 * 3 * expert


def test_latent_attention_caches_the_latent() -> None:
    config = DeepseekV3Config(num_hidden_layers=4)
    layer = attention_layers(config)[0]
    rank, rotary = config.kv_lora_rank, config.qk_rope_head_dim
    assert layer.cached == rank + rotary
    assert layer.flops(0, 1) == 2 * config.num_attention_heads * (2 * rank + rotary)
    with pytest.raises(UserError, match="latent attention"):
        published_flops(config)


class Packed(nn.Module):
    """A product that says itself what it costs and holds next to nothing."""

    operations_per_token = 12345

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("plane", torch.zeros(7, dtype=torch.uint8))


def test_a_packed_module_tells_its_own_operations_and_bytes() -> None:
    model = pico.build("llama-untied")
    before = token_cost(model)
    layer = model.model.layers[0].mlp.down_proj
    model.model.layers[0].mlp.down_proj = Packed()
    after = token_cost(model)
    assert after.flops - before.flops == 12345 - 2 * layer.in_features * layer.out_features
    assert after.weight_bytes - before.weight_bytes == 7 - layer.weight.numel() * 4


@pytest.mark.parametrize("name", ["llama-tied", "gpt-2", "mixtral"])
def test_a_packed_model_has_the_operations_of_the_dense_one_and_fewer_bytes(
    name: str, stacked: Callable[..., Path]
) -> None:
    dense = token_cost(pico.build(name))
    small, large = (token_cost(load(stacked(name), level=level)) for level in (1, 3))
    assert small.flops == large.flops == dense.flops
    assert small.weight_bytes < large.weight_bytes < dense.weight_bytes


def test_a_published_block_multiplies_once_for_every_rank() -> None:
    spec = StackSpec("signs", rows=24, columns=16, levels=3, rank=5)
    layer = PackedLinear(spec, None, torch.float32)
    model = pico.build("llama-untied")
    before = token_cost(model).linear_flops - 2 * model.model.layers[0].mlp.down_proj.weight.numel()
    model.model.layers[0].mlp.down_proj = layer
    for level in (1, 3):
        layer.set_level(level, lambda name: torch.zeros(1), "cpu")
        assert token_cost(model).linear_flops - before == 2 * 24 * 16 * 5 * level


@settings(deadline=None)
@given(
    window=st.integers(1, 9),
    chunk=st.booleans(),
    context=st.integers(0, 30),
    tokens=st.integers(1, 30),
)
def test_the_mean_over_tokens_is_the_mean_of_single_tokens(
    window: int, chunk: bool, context: int, tokens: int
) -> None:
    layer = AttentionCost(3, 5, 7, 11, window, chunk)
    each = [layer.flops(context + i, 1) for i in range(tokens)]
    assert layer.flops(context, tokens) == pytest.approx(sum(each) / tokens)
    keys = [
        c % window + 1 if chunk else min(c + 1, window) for c in range(context, context + tokens)
    ]
    assert each == [2 * 3 * 12 * k for k in keys]


def test_a_window_bounds_the_cost_of_a_long_context() -> None:
    config = MistralConfig(sliding_window=4096, num_hidden_layers=2)
    near, far = (sum(c.flops(n, 1) for c in attention_layers(config)) for n in (4095, 10**6))
    assert near == far


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MambaConfig(num_hidden_layers=2), "no num_attention_heads"),
        (JambaConfig(num_hidden_layers=8, num_experts=2), "not defined here"),
    ],
)
def test_not_defined_without_softmax_attention(config: PretrainedConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        token_cost(on_meta(config))


def test_a_config_without_a_feed_forward_width_has_no_published_flops() -> None:
    with pytest.raises(UserError, match="no intermediate_size"):
        published_flops(pico.FAMILIES["gpt-2"]())


def test_context_and_tokens_are_checked() -> None:
    with pytest.raises(UserError, match="context -1"):
        token_cost(pico.build("llama-tied"), context=-1)
