"""Every compiled variant, called directly, gives what the reference gives.

The search `descend` is compared with torch's own in
`tests/decompose/test_search.py`.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import Tensor

from bitstack.kernels import library, native, reference, selection

from .conftest import Coded, make_coded

BUILT = selection.variants()
built = pytest.mark.skipif(not BUILT, reason="the compiled kernels were not built")
able = pytest.mark.parametrize("variant", [v for v in BUILT if v.runs], ids=lambda v: v.name)


@built
def test_variants_are_numbered_and_the_last_runs_anywhere() -> None:
    assert [variant.index for variant in BUILT] == list(range(len(BUILT)))
    assert len({variant.name for variant in BUILT}) == len(BUILT)
    assert BUILT[-1].name == "portable"
    assert BUILT[-1].runs
    assert native.compiled() is not None


def test_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "load", lambda: None)
    assert selection.variants.__wrapped__() == ()
    assert native.compiled() is None


def test_a_library_of_another_system_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_cpu.so").write_bytes(b"not a library")
    (tmp_path / "_cpu.txt").write_bytes(b"nor this")
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert library.load.__wrapped__() is None


@built
@able
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_unpacked_rows(variant: selection.Variant, dtype: torch.dtype) -> None:
    matrix = make_coded(19, 77, 3)
    out = torch.full((6, 77), 99.0, dtype=dtype)
    native.unpack(variant, matrix.planes, matrix.scale, 19, out, begin=5)
    torch.testing.assert_close(out, matrix.dense[5:11].to(dtype))
    ids = torch.tensor([18, 0, 7, 7, 3, 1])
    native.unpack(variant, matrix.planes, matrix.scale, 19, out, ids=ids)
    torch.testing.assert_close(out, matrix.dense[ids].to(dtype))
    with pytest.raises(IndexError, match=r"outside 0 \.\. 18"):
        native.unpack(variant, matrix.planes, matrix.scale, 19, out, ids=ids + 1)


@built
@able
def test_halves_without_the_columns_scales(
    variant: selection.Variant, coded: Callable[..., Coded]
) -> None:
    """Together they are the matrix: v on the activations, u and the table in the weights."""
    if not variant.halves:
        pytest.skip("the variant has no product of halves")
    matrix = coded(19, 130, 3)
    _, v, _ = reference.split_scale(matrix.scale.float(), 19, 130)
    x = torch.randn(4, 130).bfloat16()
    scaled = native.scale_columns(variant, x, matrix.scale, 19)
    assert torch.equal(scaled, (x.float() * v).bfloat16())
    ones = torch.cat([matrix.scale[:19], torch.ones(130).half(), matrix.scale[149:]])
    expected = reference.dequantize(matrix.planes, ones, 19, 130)
    out = torch.empty(8, 130, dtype=torch.bfloat16)
    native.unpack_halves(variant, matrix.planes, matrix.scale, 19, out, begin=11)
    torch.testing.assert_close(out, expected[11:].bfloat16())


@built
@able
@pytest.mark.parametrize("fast", [False, True])
def test_product(variant: selection.Variant, fast: bool) -> None:
    matrix, x = make_coded(33, 129, 2), torch.randn(2, 3, 129)
    bias = torch.randn(33)
    out = native.linear(variant, fast, x, matrix.planes, matrix.scale, 33, bias)
    expected = x.double() @ matrix.dense.double().T + bias.double()
    assert out.shape == (2, 3, 33)
    assert (out - expected).norm() / expected.norm() < (1e-2 if fast else 1e-5)


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@built
def test_threads_that_meet_a_new_matrix_at_once(switching: None) -> None:
    x = torch.randn(1, 40)
    with ThreadPoolExecutor(4) as pool:
        for seed in range(150):
            coded = make_coded(24, 40, 3, seed=seed)
            start = Barrier(4)

            def multiply(_: int, coded: Coded = coded, start: Barrier = start) -> Tensor:
                start.wait()
                return native.linear(BUILT[-1], False, x, coded.planes, coded.scale, 24, None)

            products = list(pool.map(multiply, range(4)))
            expected = reference.coded_linear(x, coded.planes, coded.scale, 24, None)
            for product in products:
                torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-4)
