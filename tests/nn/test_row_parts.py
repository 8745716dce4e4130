"""Parts of some rows compute what one stack of all rows does."""

import torch
from torch import nn

from bitstack import kernels
from bitstack.container.blocks import StackSpec
from bitstack.decompose.nested import Plan
from bitstack.decompose.rows import decompose_codes
from bitstack.nn.modules import PartedEmbedding, PartedLinear
from bitstack.nn.row_parts import RowParts

ROWS, COLUMNS = (5, 9, 3), 13


def filled(module: RowParts) -> torch.Tensor:
    """Fills every part at a level of its own; returns the matrix that they make."""
    generator = torch.Generator().manual_seed(0)
    matrices = []
    for level, part in enumerate(module.parts, start=1):
        weight = torch.randn(part.spec.rows, COLUMNS, generator=generator)
        done = decompose_codes(weight, Plan(3, ()))
        part.set_level(level, done.tensors.__getitem__)
        matrices.append(part.dequantize())
    return torch.cat(matrices)


def specs() -> list[StackSpec]:
    return [StackSpec("codes", rows, COLUMNS, 3, 0, ()) for rows in ROWS]


@torch.no_grad()
def test_a_head_in_parts() -> None:
    bias = nn.Parameter(torch.randn(17))
    head = PartedLinear(specs(), bias, torch.float32)
    matrix, x = filled(head), torch.randn(2, 4, COLUMNS)
    before = kernels.set_accuracy("exact")
    try:
        torch.testing.assert_close(head(x), x @ matrix.T + bias, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(head.product(x), x @ matrix.T, atol=1e-4, rtol=1e-4)
    finally:
        kernels.set_accuracy(before)
    assert (head.in_features, head.out_features) == (COLUMNS, 17)
    torch.testing.assert_close(head.weight + 0, matrix)


@torch.no_grad()
def test_an_embedding_in_parts() -> None:
    embedding = PartedEmbedding(specs(), nn.Embedding(17, COLUMNS), torch.float32)
    matrix = filled(embedding)
    for ids in (torch.arange(17), torch.tensor([[16, 0], [4, 5]]), torch.tensor([[13]])):
        torch.testing.assert_close(embedding(ids), matrix[ids])
    assert embedding(torch.empty(1, 0, dtype=torch.int64)).shape == (1, 0, COLUMNS)
    assert embedding.bfloat16()(torch.tensor([3])).dtype == torch.bfloat16
    assert (embedding.num_embeddings, embedding.embedding_dim) == (17, COLUMNS)
