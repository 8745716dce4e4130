"""What the package calls: gradients of input, bias and scale set, and bad input."""

import pytest
import torch

from bitstack import kernels
from bitstack.errors import UserError
from bitstack.kernels import matmul, reference

from .conftest import make_coded


@pytest.mark.parametrize("batch", [1, 40])
def test_gradients_of_input_and_bias(kernel: str, batch: int) -> None:
    matrix = make_coded(70, 130, 3)
    x = torch.randn(batch, 130, requires_grad=True)
    bias = torch.randn(70, requires_grad=True)
    out = kernels.coded_linear(x, matrix.planes, matrix.scale, 70, bias)
    expected = reference.coded_linear(x, matrix.planes, matrix.scale, 70, bias)
    weights = torch.randn_like(out)
    ours = torch.autograd.grad(out, (x, bias), weights)
    theirs = torch.autograd.grad(expected, (x, bias), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_gradient_of_many_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = make_coded(200, 50, 2)
    x = torch.randn(40, 50, requires_grad=True)
    whole = kernels.coded_linear(x, matrix.planes, matrix.scale, 200)
    (gradient,) = torch.autograd.grad(whole.square().sum(), x)
    monkeypatch.setattr(matmul, "_PANELS", 1)
    monkeypatch.setattr(matmul, "_LEAST", 1)
    panels = kernels.coded_linear(x, matrix.planes, matrix.scale, 200)
    torch.testing.assert_close(panels, whole)
    (again,) = torch.autograd.grad(panels.square().sum(), x)
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-3)


def test_gradient_of_the_scale_set() -> None:
    matrix = make_coded(6, 10, 2)
    scale = matrix.scale.float().requires_grad_()
    for out in (
        kernels.coded_linear(torch.ones(1, 10), matrix.planes, scale, 6),
        kernels.coded_rows(torch.tensor([3]), matrix.planes, scale, 6, 10),
        kernels.dequantize(matrix.planes, scale, 6, 10),
    ):
        assert torch.autograd.grad(out.sum(), scale)[0].abs().sum() > 0


def test_integer_activations_are_refused() -> None:
    matrix = make_coded(12, 30, 3)
    with pytest.raises(UserError, match=r"dtype torch\.int64"):
        kernels.coded_linear(torch.ones(1, 30).long(), matrix.planes, matrix.scale, 12)


def test_another_device_is_refused() -> None:
    matrix = make_coded(12, 30, 3)
    with pytest.raises(UserError, match="meta"):
        kernels.coded_linear(torch.ones(1, 30, device="meta"), matrix.planes, matrix.scale, 12)
