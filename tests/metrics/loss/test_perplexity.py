"""Perplexity against scores by hand, at every window, stride and batch size."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from bitstack.errors import UserError
from bitstack.metrics.loss import perplexity as module
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.text import Tokens

VOCABULARY = 61
POSITIONS = 32


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def random_tokens(size: int, *, seed: int = 0, vocabulary: int = VOCABULARY) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens(torch.randint(vocabulary, (size,), generator=generator), 3 * size, "")


class Bigram(nn.Module):
    """Logits of a token depend on the one before and on how many came before: scores by hand."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1))
        self.register_buffer("table", table)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        depth = torch.arange(1, input_ids.shape[1] + 1).sqrt()
        return SimpleNamespace(logits=self.table[input_ids] / depth[None, :, None])


def bigram_by_hand(ids: Tensor, window: int, stride: int) -> tuple[int, float]:
    """Every token in the first window that holds it, one token at a time."""
    table, total, scored = Bigram().table.double(), 0.0, 0
    for t in range(1, len(ids)):
        start = max(0, math.ceil((t - window + 1) / stride)) * stride
        if t > start:
            scores = table[ids[t - 1]] / math.sqrt(t - start)
            total -= float(scores.log_softmax(0)[ids[t]])
            scored += 1
    return scored, total / max(scored, 1)


@settings(deadline=None)
@given(size=st.integers(2, 80), window=st.integers(2, 90), data=st.data())
def test_every_token_is_scored_once_in_its_first_window(
    size: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    batch_size = data.draw(st.integers(1, 9))
    tokens = random_tokens(size, seed=size)
    result = perplexity(Bigram(), tokens, window=window, stride=stride, batch_size=batch_size)
    scored, nll = bigram_by_hand(tokens.ids, window, stride)
    assert (result.tokens, result.window, result.stride) == (scored, window, stride)
    assert result.nll_per_token == pytest.approx(nll, rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(nll), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(nll / math.log(2) / 3, rel=1e-6)


def test_a_smaller_stride_leaves_out_only_the_first_token() -> None:
    tokens = random_tokens(100)
    assert perplexity(Bigram(), tokens, window=10, stride=5).tokens == 99
    assert perplexity(Bigram(), tokens, window=10).tokens == 90
    assert perplexity(Bigram(), random_tokens(101), window=10).tokens == 90  # 1 token at the end


@pytest.mark.parametrize("stride", [32, 24, 7])
def test_independent_of_the_batch_size(model: LlamaForCausalLM, stride: int) -> None:
    tokens = random_tokens(333)
    results = [
        perplexity(model, tokens, stride=stride, batch_size=batch_size).nll_per_token
        for batch_size in (1, 3, 64)
    ]
    assert results == pytest.approx([results[0]] * 3, rel=1e-6)


def test_agrees_with_the_loss_of_transformers(model: LlamaForCausalLM) -> None:
    tokens = random_tokens(POSITIONS)
    ids = tokens.ids.unsqueeze(0)
    expected = model(input_ids=ids, labels=ids).loss.item()
    assert perplexity(model, tokens).nll_per_token == pytest.approx(expected, rel=1e-6)


def test_chunks_of_the_softmax_change_nothing(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = random_tokens(100)
    whole = perplexity(model, tokens)
    monkeypatch.setattr(module, "SOFTMAX_ELEMENTS", 5 * VOCABULARY + 1)
    assert perplexity(model, tokens).nll_per_token == pytest.approx(whole.nll_per_token, rel=1e-7)


def test_uniform_model() -> None:
    class Uniform(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(256, dtype=torch.bfloat16))

        def forward(self, input_ids: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, 256))

    result = perplexity(Uniform(), random_tokens(50, vocabulary=256))
    assert result.window == 2048
    assert result.perplexity == pytest.approx(256)
    assert result.bits_per_byte == pytest.approx(8 / 3)


def test_a_hopeless_model_has_infinite_perplexity(model: LlamaForCausalLM) -> None:
    broken = Bigram()
    broken.table *= 1e5
    assert perplexity(broken, random_tokens(50)).perplexity == math.inf


def test_defaults_and_mode(model: LlamaForCausalLM) -> None:
    model.train()
    result = perplexity(model, random_tokens(40))
    assert (result.window, result.stride) == (POSITIONS, POSITIONS)
    assert model.training
    model.eval()


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (40, {"window": 33}, "window is 33 tokens; .* at most 32, the positions"),
        (40, {"window": 1}, "window is 1 tokens"),
        (40, {"window": 8, "stride": 9}, "stride is 9 tokens; it must be from 1 to the window, 8"),
        (40, {"stride": 0}, "stride is 0"),
        (1, {}, "text too short: 1 tokens"),
    ],
)
def test_errors(model: LlamaForCausalLM, size: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        perplexity(model, random_tokens(size), **options)


def test_windows_begin_with_the_tokenizers_first_token() -> None:
    seen: list[int] = []

    class Watched(Bigram):
        def forward(self, input_ids: Tensor) -> SimpleNamespace:
            seen.extend(input_ids[:, 0].tolist())
            return super().forward(input_ids)

    tokens = random_tokens(20)
    result = perplexity(Watched(), replace(tokens, start=3), window=8)
    assert seen == [3, 3, 3]
    assert result.first_token == 3
    without = perplexity(Bigram(), tokens, window=8)
    assert without.first_token is None
    assert result.tokens == without.tokens
