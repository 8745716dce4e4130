"""Kernels called wrongly raise one clear line, on every path, and never read foreign memory.

Also covers `kernels.checks` and `kernels.library`; `scripts/fuzz_ops.py` tries many more ways.
"""

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bitstack import kernels
from bitstack.kernels import library, native, outliers, reference, selection

from .conftest import Coded, make_coded

ROWS, COLUMNS = 12, 30
Change = Callable[[Coded], dict[str, Any]]


def last_plane(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda m: {"planes": [*m.planes[:-1], change(m.planes[-1])]}


WRONG: dict[str, Change] = {
    "no planes": lambda m: {"planes": []},
    "nine planes": lambda m: {"planes": m.planes * 3},
    "a plane of int8": last_plane(lambda p: p.view(torch.int8)),
    "a plane turned": last_plane(lambda p: p.T.contiguous()),
    "a plane with gaps": last_plane(lambda p: torch.cat([p, p])[::2]),
    "a plane too short": last_plane(lambda p: p[:-1]),
    "a plane on meta": last_plane(lambda p: p.to("meta")),
    "a short scale set": lambda m: {"scale": m.scale[:-1]},
    "a long scale set": lambda m: {"scale": torch.cat([m.scale, m.scale])},
    "scales of fp32": lambda m: {"scale": m.scale.float()},
    "scales with gaps": lambda m: {"scale": torch.stack([m.scale, m.scale], 1)[:, 0]},
    "rows below 0": lambda m: {"rows": -ROWS},
    "a row more": lambda m: {"rows": ROWS + 1},
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("tokens", [0, 1, 40])
def test_a_wrong_matrix_is_refused(kernel: str, tokens: int, wrong: str) -> None:
    matrix = make_coded(ROWS, COLUMNS, 3)
    parts = {"planes": matrix.planes, "scale": matrix.scale, "rows": ROWS}
    planes, scale, rows = (parts | WRONG[wrong](matrix)).values()
    x, ids = torch.randn(tokens, COLUMNS), torch.tensor([0])
    for call in (
        lambda: kernels.coded_linear(x, planes, scale, rows),
        lambda: torch.ops.bitstack.coded_linear(x, planes, scale, rows, None),
        lambda: kernels.coded_rows(ids, planes, scale, rows, COLUMNS),
        lambda: kernels.dequantize(planes, scale, rows, COLUMNS),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "bias", [torch.ones(ROWS - 1), torch.ones(ROWS).int(), torch.ones(ROWS, device="meta")]
)
@pytest.mark.parametrize("tokens", [1, 40])
def test_a_wrong_bias_is_refused(kernel: str, tokens: int, bias: Tensor) -> None:
    matrix = make_coded(ROWS, COLUMNS, 3)
    with pytest.raises(ValueError, match="bias"):
        kernels.coded_linear(torch.ones(tokens, COLUMNS), matrix.planes, matrix.scale, ROWS, bias)


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("position", [-1, ROWS * COLUMNS, 2**31 - 1, -(2**31)])
def test_outliers_outside_of_the_matrix_are_refused(
    kernel: str, tokens: int, position: int
) -> None:
    matrix, x = make_coded(ROWS, COLUMNS, 3), torch.randn(tokens, COLUMNS)
    positions = torch.tensor([4, 9, position], dtype=torch.int32)
    with pytest.raises((ValueError, IndexError)):
        kernels.coded_linear(
            x, matrix.planes, matrix.scale, ROWS, kept=(positions, torch.ones(3).half())
        )


@pytest.mark.parametrize("wide", [False, True])
def test_outliers_in_any_order_are_right_or_refused(kernel: str, wide: bool) -> None:
    matrix, x = make_coded(600, COLUMNS, 2), torch.randn(2, COLUMNS)
    positions = torch.randperm(600 * COLUMNS)[:50].to(torch.int64 if wide else torch.int32)
    kept = positions, torch.randn(50).half()
    result = None
    with contextlib.suppress(ValueError):
        result = kernels.coded_linear(x, matrix.planes, matrix.scale, 600, kept=kept)
    if result is None:
        return
    expected = outliers.add_products(x @ matrix.dense.T, x, *kept)
    torch.testing.assert_close(result, expected, rtol=2e-2, atol=0.5)


def test_rows_of_outliers_that_do_not_rise_are_refused() -> None:
    kept = torch.tensor([9, 4]), torch.ones(2).half()
    with pytest.raises(ValueError, match="do not rise"):
        torch.ops.bitstack.outlier_rows(torch.tensor([0]), *kept, COLUMNS)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, float("nan")])
def test_a_wrong_seed_is_refused(kernel: str, seed: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        kernels.rotate(torch.ones(1, 8), seed)


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(kernel: str, strange: float) -> None:
    """In an input it spreads to all rows, in a table value to the rows that use it."""
    matrix, x = make_coded(ROWS, 70, 3), torch.randn(1, 70)
    x[0, 5] = strange
    assert not kernels.coded_linear(x, matrix.planes, matrix.scale, ROWS).isfinite().any()
    matrix.scale[-1] = strange
    finite = torch.randn(1, 70).abs()
    result = kernels.coded_linear(finite, matrix.planes, matrix.scale, ROWS)
    expected = reference.coded_linear(finite, matrix.planes, matrix.scale, ROWS)
    assert torch.equal(result.isfinite(), expected.isfinite())


@pytest.mark.skipif(not selection.variants(), reason="the compiled kernels were not built")
def test_a_variant_that_cannot_run_here_is_refused() -> None:
    matrix = make_coded(ROWS, COLUMNS, 3)
    nobody = selection.Variant(99, "nobody", True, False, False)
    idle = [variant for variant in selection.variants() if not variant.runs]
    for variant in [nobody, *idle]:
        with pytest.raises(ValueError, match="kernel"):
            native.linear(
                variant, True, torch.ones(1, COLUMNS), matrix.planes, matrix.scale, ROWS, None
            )


def test_a_library_with_other_arguments_is_passed_over() -> None:
    class Old:
        def bitstack_interface(self) -> int:
            return library._INTERFACE - 1

    with pytest.raises(AttributeError):
        library.declare(Old())  # type: ignore[arg-type]


@pytest.mark.skipif(not selection.variants(), reason="the compiled kernels were not built")
def test_the_library_itself_counts() -> None:
    """What Python could get wrong, the library still refuses."""
    functions = native.compiled()
    assert functions is not None
    coded = library.Coded(rows=2, columns=8, planes=9)
    address = ctypes.addressof(coded)
    last = selection.variants()[-1].index
    out = (ctypes.c_float * 16)()
    unpack = functions.bitstack_unpack
    arguments = (address, 0, 0, 0, 2, ctypes.addressof(out), 16, 0, 1)
    for planes, message in [(9, "1 to 8"), (1, "ceil")]:
        coded.planes = planes
        with pytest.raises(ValueError, match=message):
            library.fail(unpack(last, *arguments))
