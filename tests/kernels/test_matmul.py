"""Products of many tokens, panel by panel: every row once, whoever computes it."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitstack import kernels
from bitstack.kernels import dispatch, matmul, selection
from bitstack.kernels import threads as kernel_threads

from .conftest import make_coded


@given(st.integers(1, 5000), st.integers(1, 1 << 20), st.integers(1, 64))
def test_panels_cover_every_row_once(rows: int, row_bytes: int, threads: int) -> None:
    ranges = matmul.panels(rows, row_bytes, threads)
    assert [row for begin, end in ranges for row in range(begin, end)] == list(range(rows))
    assert all(begin % 64 == 0 for begin, _ in ranges)
    largest = max(end - begin for begin, end in ranges)
    assert largest <= 64 or largest * row_bytes <= max(matmul._PANELS // threads, matmul._LEAST)
    assert len(ranges) >= min(threads, rows // 64) / 2  # all threads, but for rounding to 64 rows


@pytest.mark.skipif(not selection.variants(), reason="the compiled kernels were not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_product(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, with_bias: bool) -> None:
    variant = dispatch.cpu_variant()
    if variant is None:
        pytest.skip("the reference is forced")
    monkeypatch.setattr(matmul, "_PANELS", 1)
    monkeypatch.setattr(matmul, "_LEAST", 1)  # panels of 64 rows
    matrix, x = make_coded(200, 75, 3), torch.randn(5, 6, 75).to(dtype)
    bias = torch.randn(200) if with_bias else None
    out = matmul.linear(variant, x, matrix.planes, matrix.scale, 200, bias)
    expected = x.double() @ matrix.dense.double().T + (0 if bias is None else bias.double())
    assert (out.dtype, out.shape) == (dtype, (5, 6, 200))
    assert (out - expected).norm() / expected.norm() < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.skipif(not selection.variants(), reason="the compiled kernels were not built")
@pytest.mark.parametrize("wide", [False, True])
def test_16_bits_are_multiplied_in_fp32_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    variant = selection.variants()[-1]  # portable
    monkeypatch.setattr(dispatch, "widens", lambda _: wide)
    matrix, x = make_coded(70, 90, 2), torch.randn(30, 90).bfloat16()
    dtypes = set()
    monkeypatch.setattr(
        matmul.F, "linear", lambda a, b, c: (dtypes.add(b.dtype), a @ b.T if c is None else c)[1]
    )
    out = matmul.linear(variant, x, matrix.planes, matrix.scale, 70, None)
    assert (out.dtype, dtypes) == (torch.bfloat16, {torch.float32 if wide else torch.bfloat16})


@pytest.mark.skipif(kernel_threads.set_openmp() is None, reason="torch has no OpenMP here")
def test_work_is_shared_and_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    seen: list[tuple[int, str, int]] = []
    both = threading.Barrier(2, timeout=60)  # passed only if two threads work at once

    def work(begin: int, end: int) -> None:
        if begin < 2:
            both.wait()
        seen.append((begin, threading.current_thread().name, torch.get_num_threads()))

    torch.set_num_threads(2)
    try:
        matmul._share(work, [(i, i + 1) for i in range(20)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert sorted(begin for begin, _, _ in seen) == list(range(20))
    assert len({name for _, name, _ in seen}) == 2
    assert {count for _, _, count in seen} == {1}


def test_panels_are_used_again_and_given_back() -> None:
    if not selection.variants():
        pytest.skip("the compiled kernels were not built")
    small, large = make_coded(100, 300, 3), make_coded(900, 700, 3)
    matmul.release()
    for matrix in (small, large, small):
        x = torch.randn(64, matrix.columns)
        out = kernels.coded_linear(x, matrix.planes, matrix.scale, matrix.rows)
        torch.testing.assert_close(out, x @ matrix.dense.T, rtol=1e-4, atol=1e-3)
        assert 0 < len(matmul._idle) <= torch.get_num_threads()
    matmul.release()
    assert matmul._idle == []


def test_panels_in_a_mode_of_the_caller() -> None:
    matrix = make_coded(300, 200, 3)
    x = torch.randn(64, 200)
    plain = kernels.coded_linear(x, matrix.planes, matrix.scale, 300)
    with torch.inference_mode():
        out = kernels.coded_linear(x, matrix.planes, matrix.scale, 300)
    assert not plain.is_inference()
    assert out.is_inference()
    torch.testing.assert_close(plain, out.clone())


def test_a_failing_panel_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(begin: int, end: int) -> None:
        raise MemoryError(f"rows {begin} to {end}")

    with pytest.raises(MemoryError):
        matmul._share(fail, [(0, 1), (1, 2), (2, 3)])
