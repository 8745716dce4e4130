"""Tuning: exact gradients, and every tuned budget nearer to the original."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import bitstack
from bitstack.text import token_ids, windows
from bitstack.tune import _Product


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_the_product_has_the_gradients_of_its_definition(batch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(0, 4, (5, 7), generator=generator, dtype=torch.uint8)
    shapes = [(*batch, 7), (5,), (7,), (4,)]
    numbers = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]

    def product(x: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
        return _Product.apply(x, code, *scales)

    def plain(x: torch.Tensor, u: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.linear(x, t[code.long()] * v * u.unsqueeze(1))

    leaves = [n.requires_grad_() for n in numbers]
    assert torch.allclose(product(*leaves), plain(*leaves))
    assert torch.autograd.gradcheck(product, leaves)


def divergence(original: Path, container: Path, ids: torch.Tensor, budget: str) -> float:
    """KL(original || container at `budget`), nats per token."""
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(original)(ids).logits.log_softmax(-1)
        found = bitstack.load(container, budget)(ids).logits.log_softmax(-1)
    return float(F.kl_div(found, wanted, log_target=True, reduction="sum") / ids.numel())


@pytest.mark.parametrize("family", ["llama-tied", "qwen3-moe"])
def test_every_budget_comes_nearer(
    pico_model: Callable[..., Path], stacked: Callable[..., Path], text_file: Path, family: str
) -> None:
    original = pico_model(family)
    tokens = token_ids(str(text_file), AutoTokenizer.from_pretrained(original))
    ids = windows(tokens.ids, 32, count=16, seed=9)
    plain = stacked(family, samples=64)
    tuned = stacked(family, samples=64, tune_steps=60)
    for budget in ("2bpw", "3bpw"):
        before = divergence(original, plain, ids, budget)
        assert divergence(original, tuned, ids, budget) < 0.95 * before
