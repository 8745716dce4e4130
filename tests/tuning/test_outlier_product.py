"""Products with outliers have the value and the gradients of the dense matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.tuning.outlier_product import OutlierProduct, two_ways


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    count=st.integers(0, 9),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_as_with_the_dense_matrix(
    dtype: torch.dtype, rows: int, columns: int, count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(rows * columns, generator=generator)[:count].sort()[0].int()
    values = torch.randn(len(positions), generator=generator).half()
    dense = torch.zeros(rows * columns, dtype=dtype)
    dense[positions.long()] = values.to(dtype)
    y, x, weights = (
        torch.randn(*shape, generator=generator, dtype=dtype)
        for shape in ((2, 3, rows), (2, 3, columns), (2, 3, rows))
    )
    x.requires_grad_()
    start = y.clone().requires_grad_()
    out = OutlierProduct.apply(start * 1, x, two_ways(positions, values, rows, columns))
    expected = y + x @ dense.view(rows, columns).T
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    (out * weights).sum().backward()
    torch.testing.assert_close(start.grad, weights)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weights @ dense.view(rows, columns), rtol=1e-4, atol=1e-4)
