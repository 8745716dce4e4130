"""Experts multiply from packed blocks, and are tensors for everything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from formats import matrix_of, random_tensors
from torch import Tensor

import pico
from bitstack import kernels, load
from bitstack.container.blocks import StackSpec
from bitstack.nn import Stack
from bitstack.nn.experts import PackedExperts

SPEC = StackSpec("codes", 11, 13, 3)
IDS = torch.arange(18).view(2, 9) * 7 % pico.VOCABULARY


@pytest.fixture(autouse=True)
def exact() -> Any:
    before = kernels.set_accuracy("exact")
    yield
    kernels.set_accuracy(before)


@pytest.fixture
def never_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(stack: Stack) -> Tensor:
        raise AssertionError(f"{stack} was unpacked")

    monkeypatch.setattr(Stack, "dequantize", refused)


def make(transposed: bool) -> tuple[PackedExperts, list[Tensor]]:
    """Three experts, and their matrices as the parameter has them."""
    stacks, matrices = [Stack(SPEC, torch.float32) for _ in range(3)], []
    for i, stack in enumerate(stacks):
        tensors = random_tensors(SPEC, seed=i)
        stack.set_level(2, tensors.__getitem__)
        matrix = matrix_of(SPEC, tensors, 2)
        matrices.append(matrix.T if transposed else matrix)
    return PackedExperts(stacks, transposed), matrices


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_are_found_by_their_number(transposed: bool) -> None:
    experts, matrices = make(transposed)
    for i in (2, 0, 1):
        close(experts[i].unpacked(), matrices[i])
        assert torch.equal(experts[torch.tensor(i)], experts[i])
    assert experts.shape == torch.stack(matrices).shape
    assert experts.device == torch.device("cpu")
    assert experts.half()[0].dtype == experts.half()[0].unpacked().dtype == torch.float16


def test_linear_multiplies_from_packed_blocks(never_unpacked: None) -> None:
    experts, matrices = make(transposed=False)
    x, bias = torch.randn(4, 13), torch.randn(11)
    close(F.linear(x, experts[1]), F.linear(x, matrices[1]))
    close(F.linear(x, experts[1], bias), F.linear(x, matrices[1], bias))
    close(F.linear(x, experts[1], bias=bias), F.linear(x, matrices[1], bias))
    close(F.linear(x[:0], experts[1]), x.new_zeros(0, 11))


def test_matmul_multiplies_from_packed_blocks(never_unpacked: None) -> None:
    experts, matrices = make(transposed=True)
    x = torch.randn(2, 4, 13)
    for product in (x @ experts[2], torch.matmul(x, experts[2]), x.matmul(experts[2])):
        close(product, x @ matrices[2])


@pytest.mark.parametrize("transposed", [False, True])
def test_everything_else_takes_the_unpacked_matrix(transposed: bool) -> None:
    experts, matrices = make(transposed)
    expert, matrix = experts[1], matrices[1]
    x = torch.randn(*matrix.shape)
    assert expert.shape == matrix.shape
    close(expert.T, matrix.T)
    close(expert.float(), matrix)
    close(expert[2:4], matrix[2:4])
    close(x + expert, x + matrix)
    close(torch.cat([expert, x]), torch.cat([matrix, x]))
    close(F.linear(matrix.new_ones(3, x.shape[1]), expert), matrix.sum(1).expand(3, -1))
    close(matrix.new_ones(3, x.shape[0]) @ expert, matrix.sum(0).expand(3, -1))


def test_experts_are_multiplied_all_at_once() -> None:
    experts, matrices = make(transposed=True)
    x = torch.randn(3, 4, SPEC.columns)
    close(torch.bmm(x, experts), torch.bmm(x, torch.stack(matrices)))
    with pytest.raises(TypeError):
        torch.bmm(x, make(transposed=False)[0])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_a_mixture_runs_from_packed_blocks(
    name: str, stacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the experts that were chosen, each once for all its tokens."""
    model = load(stacked(name, calibration="none"))
    rows: list[int] = []
    product = Stack.product

    def noted(stack: Stack, x: Tensor, bias: Tensor | None = None) -> Tensor:
        rows.append(x.shape[0]) if x.dim() == 2 else None
        return product(stack, x, bias)

    def refused(stack: Stack) -> Tensor:
        raise AssertionError(f"{stack} was unpacked")

    dense = dense_logits(model)
    monkeypatch.setattr(Stack, "dequantize", refused)
    monkeypatch.setattr(Stack, "product", noted)
    logits = model(IDS).logits
    torch.testing.assert_close(logits, dense, rtol=1e-3, atol=1e-3)
    chosen = model.config.num_experts_per_tok
    parameters = sum(isinstance(module, PackedExperts) for module in model.modules())
    assert sum(rows) == IDS.numel() * chosen * parameters


def dense_logits(model: Any) -> Tensor:
    """Logits of the same model whose experts are unpacked before they are multiplied with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedExperts, "__getitem__", lambda own, i: unpacked(own, int(i)))
        logits: Tensor = model(IDS).logits
    return logits


def unpacked(experts: PackedExperts, index: int) -> Tensor:
    value = experts.stacks[index].dequantize().to(experts.stacks[index].dtype)
    return value.T if experts.transposed else value
