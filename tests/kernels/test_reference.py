"""The reference is the written formula, number by number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitstack.kernels import packing, reference
from bitstack.kernels.layout import scale_length

from .conftest import make_coded


@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 8))
def test_every_number_of_the_matrix(rows: int, columns: int, planes: int) -> None:
    matrix = make_coded(rows, columns, planes)
    u, v, table = reference.split_scale(matrix.scale.double(), rows, columns)
    bits = [packing.unpack(plane, columns) for plane in matrix.planes]
    for r in range(rows):
        for c in range(columns):
            code = sum(int(bits[p][r, c]) << p for p in range(planes))
            expected = float(u[r] * table[code] * v[c])
            assert matrix.dense[r, c].item() == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8))
def test_the_parts_of_a_scale_set(rows: int, columns: int, planes: int) -> None:
    scale = torch.arange(scale_length(rows, columns, planes)).half()
    u, v, table = reference.split_scale(scale, rows, columns)
    assert (len(u), len(v), len(table)) == (rows, columns, 2**planes)
    assert torch.equal(torch.cat([u, v, table]), scale)
    assert table.data_ptr() == scale[rows + columns :].data_ptr()  # views


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_product(dtype: torch.dtype, with_bias: bool) -> None:
    matrix = make_coded(7, 21, 3)
    x = torch.randn(2, 3, 21).to(dtype)
    bias = torch.randn(7).to(dtype) if with_bias else None
    out = reference.coded_linear(x, matrix.planes, matrix.scale, 7, bias)
    expected = x.double() @ matrix.dense.double().T + (0 if bias is None else bias.double())
    assert (out.dtype, out.shape) == (dtype, (2, 3, 7))
    bound = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert (out.double() - expected).norm() / expected.norm() < bound


def test_rows() -> None:
    matrix = make_coded(7, 21, 3)
    ids = torch.tensor([[6, 0, 6], [2, 3, 1]])
    rows = reference.coded_rows(ids, matrix.planes, matrix.scale, 7, 21)
    assert torch.equal(rows, matrix.dense[ids])
    assert reference.coded_rows(ids[:0], matrix.planes, matrix.scale, 7, 21).shape == (0, 3, 21)
