"""The operators under torch's machinery: schema and fakes, gradients, torch.compile."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import bitstack.kernels.operators  # noqa: F401 - it registers torch.ops.bitstack
from bitstack import kernels

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
