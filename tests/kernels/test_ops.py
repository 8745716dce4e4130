"""The operators under torch's machinery: schema and fakes, torch.compile, autograd, bad input."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bitstack import kernels
from bitstack.errors import UserError
from bitstack.kernels import matmul, reference, selection

from .conftest import make_coded

_LINEAR = torch.ops.bitstack.coded_linear.default


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_operators_keep_torchs_rules(dtype: torch.dtype, with_bias: bool) -> None:
    matrix = make_coded(12, 30, 3)
    bias = torch.randn(12).to(dtype) if with_bias else None
    x = torch.randn(2, 30).to(dtype).requires_grad_()
    torch.library.opcheck(_LINEAR, (x, matrix.planes, matrix.scale, 12, bias))
    rows = torch.ops.bitstack.coded_rows.default
    torch.library.opcheck(rows, (torch.tensor([[1, 5]]), matrix.planes, matrix.scale, 12, 30))
    dense = torch.ops.bitstack.dequantize.default
    torch.library.opcheck(dense, (matrix.planes, matrix.scale, 12, 30))


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


def test_compile_sees_one_graph() -> None:
    matrix = make_coded(12, 30, 3)

    def double(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        rows = kernels.coded_rows(ids, matrix.planes, matrix.scale, 12, 30)
        return 2 * kernels.coded_linear(x + rows, matrix.planes, matrix.scale, 12)

    x, ids = torch.randn(2, 30), torch.tensor([3, 0])
    compiled = torch.compile(double, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, ids), double(x, ids))


def test_fake_tensors_get_shapes_without_reading() -> None:
    matrix = make_coded(12, 30, 3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        out = kernels.coded_linear(
            torch.empty(4, 2, 30, dtype=torch.bfloat16), matrix.planes, matrix.scale, 12
        )
    assert out.shape == (4, 2, 12)
    assert out.dtype == torch.bfloat16


def test_other_dtypes_take_the_reference() -> None:
    matrix = make_coded(12, 30, 3)
    x = torch.randn(2, 30, dtype=torch.float64)
    out = kernels.coded_linear(x, matrix.planes, matrix.scale, 12)
    torch.testing.assert_close(out, x @ matrix.dense.double().T)


def test_integer_activations_are_refused() -> None:
    matrix = make_coded(12, 30, 3)
    with pytest.raises(UserError, match=r"dtype torch\.int64"):
        kernels.coded_linear(torch.ones(1, 30).long(), matrix.planes, matrix.scale, 12)


def test_another_device_is_refused() -> None:
    matrix = make_coded(12, 30, 3)
    with pytest.raises(UserError, match="meta"):
        kernels.coded_linear(torch.ones(1, 30, device="meta"), matrix.planes, matrix.scale, 12)


@pytest.mark.parametrize("tokens", [3, 40])
def test_many_threads_get_what_one_gets(tokens: int) -> None:
    if not selection.variants():
        pytest.skip("the compiled kernels were not built")
    matrix = make_coded(1000, 2050, 3)
    x = torch.randn(tokens, 2050)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(kernels.coded_linear(x, matrix.planes, matrix.scale, 1000))
    finally:
        torch.set_num_threads(before)
    assert torch.get_num_threads() == before
    for other in results[1:]:  # torch's product may sum in another order for panels of another size
        torch.testing.assert_close(results[0], other, rtol=1e-4, atol=1e-3)
