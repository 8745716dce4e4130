"""Packed modules compute what the modules they replace compute with the same matrix."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from formats import matrix_of, random_tensors
from torch import Tensor, nn

from bitstack import kernels
from bitstack.container.blocks import StackSpec
from bitstack.errors import UserError
from bitstack.nn.modules import PackedEmbedding, PackedLinear, TiedHead

SPEC = StackSpec("codes", 11, 13, 3)
MATRIX = matrix_of(SPEC, random_tensors(SPEC), 3)


@pytest.fixture(autouse=True)
def exact() -> Any:
    before = kernels.set_accuracy("exact")
    yield
    kernels.set_accuracy(before)


def filled(stack: Any) -> Any:
    stack.set_level(3, random_tensors(SPEC).__getitem__)
    return stack


def close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(with_bias: bool) -> None:
    bias = nn.Parameter(torch.randn(11)) if with_bias else None
    module = filled(PackedLinear(SPEC, bias, torch.float32))
    assert isinstance(module, nn.Linear)  # to adapters too
    assert (module.in_features, module.out_features) == (13, 11)
    assert [name for name, _ in module.named_parameters()] == (["bias"] if with_bias else [])
    x = torch.randn(2, 3, 13)
    close(module(x), F.linear(x, MATRIX, bias))
    close(module.weight, MATRIX)
    half = module.bfloat16()
    assert half.weight.dtype == half(x.bfloat16()).dtype == torch.bfloat16


def test_a_weight_is_a_copy_that_cannot_be_written() -> None:
    """An adapter that is merged would be lost in silence."""
    module = filled(PackedLinear(SPEC, None, torch.float32))
    weight = module.weight
    with pytest.raises(UserError, match=r"made of its blocks and cannot be written; .*export"):
        weight.data = torch.zeros(11, 13)
    with pytest.raises(UserError, match="cannot be written"):
        weight.data += 1
    assert type(weight + 1) is type(weight[0]) is type(weight.data) is Tensor
    close(module.weight.data, MATRIX)


class Doubling(nn.Embedding):
    """A subclass with a forward of its own, as Gemma's."""

    def forward(self, ids: Tensor) -> Tensor:
        return 2 * super().forward(ids)


@pytest.mark.parametrize(("kind", "factor"), [(nn.Embedding, 1), (Doubling, 2)])
def test_embedding(kind: type[nn.Embedding], factor: int) -> None:
    original = kind(11, 13, padding_idx=4)
    module = filled(PackedEmbedding(SPEC, original, torch.float32))
    original.padding_idx = None  # as `pack_model` does: its forward gets a few rows only
    assert (module.num_embeddings, module.embedding_dim, module.padding_idx) == (11, 13, 4)
    ids = torch.tensor([[10, 0, 4], [0, 0, 7]])
    close(module(ids), factor * MATRIX[ids])
    close(module.weight, MATRIX)
    assert module.bfloat16()(ids).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_tied_head_has_no_blocks_of_its_own(with_bias: bool) -> None:
    bias = nn.Parameter(torch.randn(11)) if with_bias else None
    embedding = PackedEmbedding(SPEC, nn.Embedding(11, 13), torch.float32)
    head = TiedHead(embedding, bias)
    filled(embedding)
    x = torch.randn(3, 13)
    close(head(x), F.linear(x, MATRIX, bias))
    close(head.weight, MATRIX)
    assert (head.in_features, head.out_features) == (13, 11)
    assert not list(head.buffers())
    assert not list(head.children())
