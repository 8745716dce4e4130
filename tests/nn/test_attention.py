"""Attention in the steps of a packed model, and nowhere else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

import pico
from bitstack import load
from bitstack.kernels import selection
from bitstack.nn import attention
from bitstack.nn.attention import attention_of_steps

Folder = Callable[..., Path]
IDS = torch.arange(40)[None] * 7 % pico.VOCABULARY

pytestmark = pytest.mark.skipif(not selection.variants(), reason="the kernels were not built")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Queries and tokens of every call of the kernel."""
    seen: list[tuple[int, int]] = []

    def noted(query: Tensor, key: Tensor, *others: Any) -> Tensor:
        seen.append((query.shape[2], key.shape[2]))
        return attend(query, key, *others)

    attend = attention.attend
    monkeypatch.setattr(attention, "attend", noted)
    return seen


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama-gqa", "qwen2"])
def test_steps_take_the_kernel(stacked: Folder, name: str, calls: list) -> None:
    model = load(stacked(name, calibration="none"))
    whole = model(IDS).logits
    assert calls == []
    cache = model(IDS[:, :30]).past_key_values
    parts = [model(IDS[:, i:j], past_key_values=cache).logits for i, j in ((30, 31), (31, 40))]
    layers = model.config.num_hidden_layers
    assert calls == [(1, 31)] * layers + [(9, 40)] * layers
    assert torch.allclose(torch.cat(parts, 1), whole[:, 30:], atol=2e-3, rtol=2e-3)


@torch.inference_mode()
def test_padded_sequences_of_a_batch(stacked: Folder, calls: list) -> None:
    model = load(stacked("llama-gqa", calibration="none"))
    alone = model.generate(IDS[:, :9], max_new_tokens=6, do_sample=False)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.int64), IDS[:, :9]], 1)
    both = torch.cat([padded, IDS[:, 10:24]])
    seen = torch.ones_like(both)
    seen[0, :5] = 0
    calls.clear()
    out = model.generate(both, attention_mask=seen, max_new_tokens=6, do_sample=False)
    assert calls
    assert out[0, 14:].tolist() == alone[0, 9:].tolist()


def test_a_gradient_is_torchs(stacked: Folder, calls: list) -> None:
    model = load(stacked("llama-gqa", calibration="none"))
    embedded = model.get_input_embeddings()(IDS[:, :5]).requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None
    assert calls == []


def test_outside_of_a_step_and_with_other_options(calls: list) -> None:
    with attention_of_steps():
        pass
    entry = AttentionInterface()["sdpa"]
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, n, 8, generator=generator) for n in (1, 5, 5))
    module = torch.nn.Module()
    out, _ = entry(module, query, key, value, None, scaling=0.5)
    assert calls == []
    with attention_of_steps():
        same, _ = entry(module, query, key, value, None, scaling=0.5)
        assert calls == [(1, 5)]
        assert torch.allclose(out, same, atol=1e-6)
        entry(module, key[:, :, :2], key, value, None, scaling=0.5)  # torch's, first of all tokens
        bias = torch.randn(1, 2, 1, 5, generator=generator)
        entry(module, query, key, value, None, scaling=0.5, position_bias=bias)
        entry(module, query, key, value, bias, scaling=0.5)
        assert calls == [(1, 5)]


def test_a_short_prompt_sees_only_what_came_before(calls: list) -> None:
    entry = AttentionInterface()["sdpa"]
    module = torch.nn.Module()
    query, key, value = torch.randn(3, 1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    wanted = [entry(module, query, key, value, None, is_causal=c)[0] for c in (True, False)]
    with attention_of_steps():
        outs = [entry(module, query, key, value, None, is_causal=c)[0] for c in (True, False)]
        assumed, _ = entry(module, query, key, value, None)
    assert calls == [(6, 6)] * 3
    assert torch.allclose(outs[0], wanted[0], atol=1e-6)
    assert torch.allclose(outs[1], wanted[1], atol=1e-6)
    assert torch.equal(assumed, outs[0])
    assert not torch.allclose(outs[0], outs[1], atol=1e-2)


def test_the_default_scaling(calls: list) -> None:
    with attention_of_steps():
        entry = AttentionInterface()["sdpa"]
        query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 4, 16)
        out, _ = entry(torch.nn.Module(), query, key, key, None)
    weights = torch.softmax(query[0, 0] @ key[0, 0].T / 4, -1)
    assert torch.allclose(out[0, 0], weights @ key[0, 0], atol=1e-6)
    assert calls == [(1, 4)]
