"""The published block: its product and its dense matrix agree with the formula written out."""

import pytest
import torch

from bitstack import kernels
from bitstack.kernels import packing, selection, sign_dequantize, sign_linear, signs


def _stack(
    rows: int, columns: int, planes: int, rank: int
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    packed, lefts, rights = [], [], []
    dense = torch.zeros(rows, columns, dtype=torch.float64)
    for _ in range(planes):
        bits = torch.rand(rows, columns, generator=generator) < 0.5
        left = torch.rand(rows, rank, generator=generator).half()
        right = torch.rand(rank, columns, generator=generator).half()
        packed.append(packing.pack(bits, order="big"))
        lefts.append(left)
        rights.append(right)
        dense += (bits.double() * 2 - 1) * (left.double() @ right.double())
    return packed, lefts, rights, dense


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 17), (5, 8), (33, 65), (64, 128)])
@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("rank", [1, 16])
def test_matches_the_formula(kernel: str, rows: int, columns: int, planes: int, rank: int) -> None:
    packed, lefts, rights, dense = _stack(rows, columns, planes, rank)
    x = torch.randn(2, 3, columns, generator=torch.Generator().manual_seed(0))
    bias = torch.arange(rows).float()
    torch.testing.assert_close(
        sign_dequantize(packed, lefts, rights, columns).double(), dense, rtol=1e-5, atol=1e-5
    )
    expected = x.double() @ dense.T + bias.double()
    for accuracy, bound in (("exact", 1e-5), ("fast", 1e-3)):
        before = kernels.set_accuracy(accuracy)
        out = sign_linear(x, packed, lefts, rights, bias)
        half = sign_linear(x.bfloat16(), packed, lefts, rights, bias)
        kernels.set_accuracy(before)
        assert (out - expected).norm() / expected.norm() < bound
        assert half.dtype == torch.bfloat16
        assert (half - expected).norm() / expected.norm() < 1e-2


@pytest.mark.skipif(not selection.variants(), reason="the compiled kernels were not built")
def test_few_tokens_never_see_the_dense_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, lefts, rights, dense = _stack(40, 65, 2, 3)
    x = torch.randn(9, 65)
    calls: list[int] = []
    rebuild = signs._rebuilt
    monkeypatch.setattr(signs, "_rebuilt", lambda *a: (calls.append(len(a[0])), rebuild(*a))[1])
    before = kernels.set_accuracy("exact")
    try:
        for tokens in (1, 7, 8, 9):
            out = sign_linear(x[:tokens], packed, lefts, rights)
            expected = (x[:tokens].double() @ dense.T).float()
            torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-2)
    finally:
        kernels.set_accuracy(before)
    assert calls == [8, 9]


def test_panels_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, lefts, rights, _ = _stack(33, 65, 2, 2)
    x = torch.randn(12, 65)
    whole = sign_linear(x, packed, lefts, rights)
    monkeypatch.setattr(signs, "_PANEL", 130)
    torch.testing.assert_close(sign_linear(x, packed, lefts, rights), whole)


def test_gradient_reaches_the_input() -> None:
    packed, lefts, rights, dense = _stack(6, 9, 2, 2)
    x = torch.randn(3, 9, requires_grad=True)
    sign_linear(x, packed, lefts, rights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, dense.sum(0).float().expand(3, 9), rtol=1e-4, atol=1e-4)
