"""Outliers: a sparse part of a matrix, the same in every kernel as in a dense matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack import kernels
from bitstack.kernels import native, outliers

ROWS, COLUMNS = 24, 70


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some(count: int, wide: bool = False, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and values of some outliers; one row has many, some have none."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.randperm(ROWS * COLUMNS // 2, generator=generator)[:count].sort().values
    return at.to(torch.int64 if wide else torch.int32), random(count, seed=seed).half() * 50


def dense(positions: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    matrix = torch.zeros(ROWS * COLUMNS)
    matrix[positions.long()] = values.float()
    return matrix.view(ROWS, COLUMNS)


@pytest.mark.parametrize("variant", [*[v.name for v in native.variants() if v.runs], "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (200,)])
def test_products_are_those_of_a_dense_matrix(
    shape: tuple[int, ...], wide: bool, dtype: torch.dtype, variant: str, monkeypatch
) -> None:  # fmt: skip
    monkeypatch.setenv("BITSTACK_KERNEL", variant)
    positions, values = some(90, wide)
    x, y = random(*shape, COLUMNS).to(dtype), random(*shape, ROWS, seed=1).to(dtype)
    expected = y.float() + x.float() @ dense(positions, values).T
    result = kernels.add_outliers(y.clone(), x, positions, values)
    step = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    assert result.dtype == dtype
    assert (result.float() - expected).abs().max() <= step * expected.abs().max()


@settings(deadline=None, max_examples=30)
@given(ids=st.lists(st.integers(0, ROWS - 1), max_size=9), count=st.integers(1, 300))
def test_rows_in_any_order_and_twice(ids: list[int], count: int) -> None:
    positions, values = some(count)
    wanted = torch.tensor(ids, dtype=torch.int64)
    rows = outliers.rows(wanted, positions, values, COLUMNS)
    assert torch.equal(rows, dense(positions, values)[wanted])


def test_rows_in_the_shape_of_their_ids() -> None:
    positions, values = some(200)
    ids = torch.tensor([[3, 3, 0], [11, 23, 7]])
    rows = outliers.rows(ids, positions, values, COLUMNS)
    assert torch.equal(rows, dense(positions, values)[ids])


def test_added_to_a_matrix() -> None:
    positions, values = some(100)
    matrix = random(ROWS, COLUMNS)
    expected = matrix + dense(positions, values)
    assert torch.equal(outliers.add_to(matrix, positions, values), expected)


def test_gradients_flow_to_inputs() -> None:
    positions, values = some(60)
    x = random(3, COLUMNS).requires_grad_()
    y = kernels.add_outliers(torch.zeros(3, ROWS), x, positions, values)
    y.sum().backward()
    assert torch.allclose(x.grad, dense(positions, values).sum(0).expand(3, -1), rtol=1e-5)


def test_compiled_whole() -> None:
    positions, values = some(60)

    def both(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        y = kernels.add_outliers(torch.ones(len(x), ROWS), x, positions, values)
        return y.sum() + outliers.rows(ids, positions, values, COLUMNS).sum()

    x, ids = random(3, COLUMNS), torch.tensor([1, 5, 1])
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, ids), both(x, ids))
