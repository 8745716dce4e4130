"""While drafts are verified, a forward over several tokens gives what single tokens give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import pico
from bitstack import load
from bitstack.live.verify import attention_by_token, verifying

IDS = torch.arange(12)[None] * 7 % pico.VOCABULARY
PROMPT = 7  # tokens


@pytest.fixture
def model(stacked: Callable[..., Path]) -> Any:
    """Of width 44, where torch's SiLU rounds the last numbers of a tensor in another way than the
    others, however many tokens there are: so it has another activation function."""
    model = load(stacked("llama-gqa", calibration="none"), level=3)
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.ReLU()
    return model


def forward(model: Any, ids: Tensor, cache: DynamicCache) -> Tensor:
    """Logits as an assisted generation computes them."""
    with torch.no_grad():
        return model(input_ids=ids, past_key_values=cache, use_cache=True).logits


def test_several_tokens_are_as_single_ones(model: Any) -> None:
    """The prompt runs by itself, and every draft token attends as if it came alone, bit for bit."""
    cache = DynamicCache(config=model.config)
    single = [forward(model, IDS[:, :PROMPT], cache)[:, -1:]]
    single += [forward(model, IDS[:, i : i + 1], cache) for i in range(PROMPT, IDS.shape[1])]
    with verifying(model, PROMPT):
        together = forward(model, IDS, DynamicCache(config=model.config))
    assert torch.equal(together, torch.cat(single, 1))


def test_only_while_verifying(model: Any) -> None:
    plain = forward(model, IDS, DynamicCache(config=model.config))
    with verifying(model, PROMPT), verifying(model, PROMPT):
        assert model.config._attn_implementation == "sdpa_by_token"
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert torch.equal(forward(model, IDS, DynamicCache(config=model.config)), plain)


def test_another_attention_stays(model: Any) -> None:
    model.set_attn_implementation("eager")
    with verifying(model, PROMPT):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "eager"


def test_a_query_sees_the_keys_of_its_row(model: Any) -> None:
    """Of a sliding window of 3 keys: the result is a softmax over those three alone."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 8, generator=generator) for _ in range(3))
    age = torch.arange(5)[:, None] - torch.arange(5)
    mask = ((age >= 0) & (age < 3))[None, None]
    with verifying(model, PROMPT):
        out, weights = attention_by_token(torch.nn.Module(), query, key, value, mask, scaling=0.5)
    scores = (0.5 * query @ key.transpose(-1, -2)).masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) @ value).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(out, expected)
