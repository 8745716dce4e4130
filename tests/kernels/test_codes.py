"""Values and sums of codes: compiled as in torch. The search is tested with `decompose.search`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack.kernels import codes, native


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 140), columns=st.integers(1, 70), planes=st.integers(0, 8),
    ones=st.booleans(),
)  # fmt: skip
@pytest.mark.parametrize("compiled", [True, False])
def test_values_and_sums_by_their_definition(
    compiled: bool, rows: int, columns: int, planes: int, ones: bool
) -> None:
    if compiled and native.compiled() is None:
        pytest.skip("the native library was not built")
    generator = torch.Generator().manual_seed(rows + 200 * columns)
    code = torch.randint(0, 256, (rows, columns), dtype=torch.uint8, generator=generator)
    table, u, v = (torch.randn(n, generator=generator) for n in (2**planes, rows, columns))
    x = None if ones else torch.randn(rows, columns, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes, "is_native", lambda code: compiled)
        values = codes.values(code, planes, table, u, v)
        sums = codes.sum_by_code(code, planes, u, v, x)
    low = code.long() & (2**planes - 1)
    torch.testing.assert_close(values, u.unsqueeze(1) * table[low] * v)
    weighted = u.unsqueeze(1) * v * (1 if x is None else x)
    expected = torch.stack([weighted[low == k].sum() for k in range(2**planes)])
    torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-4)


def test_tensors_that_are_not_contiguous() -> None:
    code = torch.randint(0, 4, (6, 5), dtype=torch.uint8).T
    table, u, v = torch.randn(8)[::2], torch.randn(10)[::2], torch.randn(12)[::2]
    expected = u.unsqueeze(1) * table[code.long()] * v
    torch.testing.assert_close(codes.values(code, 2, table, u, v), expected)
    x = torch.randn(6, 5).T
    total = (u.unsqueeze(1) * v * x).sum()
    torch.testing.assert_close(codes.sum_by_code(code, 2, u, v, x).sum(), total)
