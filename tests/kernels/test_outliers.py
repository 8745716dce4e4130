"""Outliers: a sparse part of a matrix, the same in every kernel as in a dense matrix."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitstack import kernels
from bitstack.kernels import arguments, outliers
from bitstack.kernels.layout import scale_length

from .conftest import make_coded

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


def product(
    x: torch.Tensor,
    kept: arguments.Kept,
    bias: torch.Tensor | None = None,
    seed: int = 0,
    rows: int = ROWS,
) -> torch.Tensor:
    """With a coded matrix whose table is zero: what is left are outliers and bias."""
    columns = x.shape[-1]
    planes = [torch.zeros(rows, (columns + 7) // 8, dtype=torch.uint8)]
    scale = torch.zeros(scale_length(rows, columns, 1)).half()
    return kernels.coded_linear(x, planes, scale, rows, bias, seed=seed, kept=kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (200,)])
def test_products_are_those_of_a_dense_matrix(
    shape: tuple[int, ...], wide: bool, dtype: torch.dtype, kernel: str
) -> None:
    positions, values = some(90, wide)
    x, bias = random(*shape, COLUMNS).to(dtype), random(ROWS, seed=1).to(dtype)
    expected = x.float() @ dense(positions, values).T + bias.float()
    result = product(x, (positions, values), bias)
    step = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    assert result.dtype == dtype
    assert (result.float() - expected).abs().max() <= step * expected.abs().max()


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_shape_and_any_places(kernel: str, data: st.DataObject) -> None:
    """Also none in many rows, many in one, in the first and in the last; several threads or one."""
    rows, columns = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 90))
    weights = st.integers(0, rows * columns - 1)
    places = data.draw(st.sets(weights, min_size=1, max_size=40))
    full = data.draw(st.sets(st.integers(0, rows - 1) | st.just(rows - 1), max_size=3))
    places |= {row * columns + column for row in full for column in range(columns)}
    dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
    positions = torch.tensor(sorted(places), dtype=dtype)
    values = random(len(positions)).half()
    x = random(data.draw(st.integers(1, 5)), columns, seed=1)
    matrix = torch.zeros(rows * columns)
    matrix[positions.long()] = values.float()
    expected = x @ matrix.view(rows, columns).T
    result = product(x, (positions, values), seed=data.draw(st.integers(0, 2)), rows=rows)
    assert torch.allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [1999, 4096, 70_001])
def test_wide_matrices(kernel: str, columns: int) -> None:
    """Rows and columns are found by a quotient in fp32, which may be wrong next to a row's ends."""
    rows = 300
    ends = torch.arange(rows + 1) * columns
    near = torch.cat([ends, ends + 1, ends - 1, ends - 2]).unique()
    positions = near[(near >= 0) & (near < rows * columns)].int()
    values, x = random(len(positions)).half(), random(1, columns, seed=1)
    parts = values.float() * x[0, positions.long() % columns]
    expected = torch.zeros(rows).index_add(0, positions.long() // columns, parts)
    assert torch.allclose(product(x, (positions, values), rows=rows)[0], expected, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 4])
def test_many_threads_get_what_one_gets(tokens: int) -> None:
    """Whichever thread takes which rows, and whatever rows it took before."""
    coded = make_coded(3000, 700, 3)
    positions = torch.randperm(3000 * 700, generator=torch.Generator().manual_seed(0))[:20_000]
    kept = positions.sort().values.int(), random(20_000).half()
    x = random(tokens, 700)

    def multiply() -> torch.Tensor:
        return kernels.coded_linear(x, coded.planes, coded.scale, 3000, seed=3, kept=kept)

    before, alone = torch.get_num_threads(), multiply()
    try:
        torch.set_num_threads(4)
        assert all(torch.equal(multiply(), alone) for _ in range(50))
    finally:
        torch.set_num_threads(before)


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


@pytest.mark.parametrize("seed", [0, 4])
def test_gradients_flow_to_inputs(seed: int) -> None:
    positions, values = some(60)
    x = random(3, COLUMNS).requires_grad_()
    product(x, (positions, values), seed=seed).sum().backward()
    assert torch.allclose(x.grad, dense(positions, values).sum(0).expand(3, -1), rtol=1e-5)


def test_compiled_whole() -> None:
    positions, values = some(60)

    def both(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        y = product(x, (positions, values), torch.ones(ROWS))
        return y.sum() + outliers.rows(ids, positions, values, COLUMNS).sum()

    x, ids = random(3, COLUMNS), torch.tensor([1, 5, 1])
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, ids), both(x, ids))
