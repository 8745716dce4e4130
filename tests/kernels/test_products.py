"""Every kernel against the reference: shapes, planes, batches, dtypes, accuracies."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitstack import kernels
from bitstack.kernels import reference

from .conftest import Coded, make_coded

_SHAPES = [(1, 1), (1, 700), (3, 7), (33, 64), (65, 513), (70, 2049)]


@pytest.fixture(params=["exact", "fast"], autouse=True)
def accuracy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kernels.set_accuracy(request.param)
    yield request.param
    kernels.set_accuracy(before)


def _error(out: Tensor, x: Tensor, matrix: Coded, bias: Tensor | None = None) -> float:
    """Largest error of an output, over what its sum would be with the table's largest entry."""
    u, v, table = reference.split_scale(matrix.scale.double(), matrix.rows, matrix.columns)
    offset = torch.zeros(1) if bias is None else bias.double()
    exact = x.double() @ matrix.dense.double().T + offset
    size = (x.double().abs() @ v).unsqueeze(-1) * u * table.abs().max() + offset.abs()
    return ((out.double() - exact).abs() / size).max().item()


def _fast_bound(kernel: str, planes: int) -> float:
    """Largest `_error` of "fast": a table of one digit, or of two entries or two digits."""
    short = 1 < planes < 4
    if kernel in ("avx2", "neon"):  # digits of 5 to 8 bits, remainders of 4
        return 5e-3 if short else 2e-3
    return 5e-3 if short else 3e-4


def _run(x: Tensor, matrix: Coded, bias: Tensor | None = None) -> Tensor:
    return kernels.coded_linear(x, matrix.planes, matrix.scale, matrix.rows, bias)


@pytest.mark.parametrize("planes", range(1, 9))
@pytest.mark.parametrize(("rows", "columns"), _SHAPES)
def test_product_of_fp32(kernel: str, accuracy: str, rows: int, columns: int, planes: int) -> None:
    matrix = make_coded(rows, columns, planes)
    bound = 1e-6 if accuracy == "exact" else _fast_bound(kernel, planes)
    for batch in (1, 3, 8, 25):
        x = torch.randn(batch, columns, generator=torch.Generator().manual_seed(batch))
        assert _error(_run(x, matrix), x, matrix) < bound, batch


@pytest.mark.parametrize("planes", [1, 3, 5])
@pytest.mark.parametrize("batch", [1, 3, 512])
def test_relative_error_of_a_wide_matrix(
    kernel: str, accuracy: str, planes: int, batch: int
) -> None:
    matrix = make_coded(65, 1001, planes)
    x = torch.randn(batch, 1001, generator=torch.Generator().manual_seed(batch))
    expected = x.double() @ matrix.dense.double().T
    error = (_run(x, matrix) - expected).norm() / expected.norm()
    assert error < (1e-5 if accuracy == "exact" else 1e-2)


@pytest.mark.parametrize("planes", range(1, 9))
def test_several_tokens_get_to_the_bit_what_one_gets(kernel: str, planes: int) -> None:
    """Whoever drafts and verifies relies on it."""
    if kernel == "reference":
        pytest.skip("torch's product depends on the batch")
    matrix = make_coded(33, 700, planes)
    x = torch.randn(9, 700, generator=torch.Generator().manual_seed(planes))
    alone = torch.cat([_run(token, matrix) for token in x.split(1)])
    for batch in range(2, 10):
        assert torch.equal(_run(x[:batch], matrix), alone[:batch])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias_dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_and_bias(
    kernel: str, dtype: torch.dtype, bias_dtype: torch.dtype | None
) -> None:
    if kernel == "reference" and bias_dtype not in (None, dtype):
        pytest.skip("torch's own linear wants one dtype")
    matrix = make_coded(40, 300, 3)
    bias = None if bias_dtype is None else torch.linspace(-9, 9, 40).to(bias_dtype)
    for batch in (1, 5, 30):
        x = torch.randn(batch, 300).to(dtype)
        out = _run(x, matrix, bias)
        assert out.dtype == dtype
        assert _error(out, x, matrix, bias) < 1e-2


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(1, 80),
    columns=st.integers(1, 700),
    planes=st.integers(1, 8),
    batch=st.integers(1, 9),
)
def test_any_shape(
    kernel: str, accuracy: str, rows: int, columns: int, planes: int, batch: int
) -> None:
    matrix = make_coded(rows, columns, planes)
    x = torch.randn(batch, columns, generator=torch.Generator().manual_seed(rows))
    bound = 1e-6 if accuracy == "exact" else _fast_bound(kernel, planes)
    assert _error(_run(x, matrix), x, matrix) < bound


@pytest.mark.parametrize("planes", range(1, 9))
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_fit(kernel: str, planes: int, sign: int) -> None:
    """Every digit at its largest and of one sign: what sums of 16 bits have to hold."""
    columns = 512
    table = torch.zeros(2**planes)
    table[1], table[-1] = 1, 1 if planes == 1 else 1 - 0.05 / 127
    bits = [torch.full((1, columns // 8), 255, dtype=torch.uint8)] * planes
    matrix = Coded(bits, torch.cat([torch.ones(1 + columns), table]).half(), 1, columns)
    for steps in (31, 63, 127):
        x = torch.full((1, columns), 1 - 0.49 / steps)
        x[0, ::32] = 1
        assert _error(_run(sign * x, matrix), sign * x, matrix) < 1e-3


def test_an_outlier_leaves_other_groups_alone(kernel: str) -> None:
    matrix = make_coded(64, 512, 1)
    quiet = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    quiet[0, 32:64] = 0  # the 32 columns that share a scale with the outlier
    outlier = torch.zeros(1, 512)
    outlier[0, 40] = 1e4
    difference = _run(quiet + outlier, matrix) - _run(outlier, matrix)
    expected = quiet.double() @ matrix.dense.double().T
    assert (difference - expected).norm() / expected.norm() < 1e-3


def test_zeros_infinity_and_nan(kernel: str) -> None:
    matrix = make_coded(9, 100, 2)
    assert torch.equal(_run(torch.zeros(1, 100), matrix), torch.zeros(1, 9))
    for value in (float("nan"), float("inf")):
        x = torch.ones(1, 100)
        x[0, 50] = value
        assert not _run(x, matrix).isfinite().any()


def test_many_dimensions_and_strides(kernel: str) -> None:
    matrix = make_coded(20, 90, 4)
    x = torch.randn(90, 2, 3).permute(1, 2, 0)
    out = _run(x, matrix)
    assert out.shape == (2, 3, 20)
    torch.testing.assert_close(out, _run(x.contiguous(), matrix))
    assert _run(x[:0], matrix).shape == (0, 3, 20)


@pytest.mark.parametrize("planes", range(1, 9))
@pytest.mark.parametrize(("rows", "columns"), _SHAPES)
def test_dense_and_rows_equal_the_reference_bit_for_bit(
    kernel: str, rows: int, columns: int, planes: int
) -> None:
    matrix = make_coded(rows, columns, planes)
    dense = kernels.dequantize(matrix.planes, matrix.scale, rows, columns)
    assert torch.equal(dense, matrix.dense)
    ids = torch.arange(rows).repeat(3)[1:].flip(0).unsqueeze(0)
    gathered = kernels.coded_rows(ids, matrix.planes, matrix.scale, rows, columns)
    assert torch.equal(gathered, matrix.dense[ids])


def test_row_outside_raises(kernel: str, coded: Callable[..., Coded]) -> None:
    matrix = coded(5, 10, 2)
    for wrong in (-6, 5):
        with pytest.raises(IndexError):
            kernels.coded_rows(torch.tensor([0, wrong]), matrix.planes, matrix.scale, 5, 10)


def test_unused_bits_do_not_matter(kernel: str) -> None:
    matrix = make_coded(6, 77, 3)
    dirty = [plane.clone() for plane in matrix.planes]
    for plane in dirty:
        plane[:, -1] |= 0b11100000
    x = torch.randn(1, 77)
    out = kernels.coded_linear(x, dirty, matrix.scale, 6)
    torch.testing.assert_close(out, _run(x, matrix), rtol=0, atol=0)
