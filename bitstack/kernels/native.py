"""Calls the compiled CPU kernels, a library beside this file.

Knows how to call each variant; what the library finds wrong becomes an exception. Does not check
tensors (see `kernels.arguments`), choose a variant (`kernels.selection`) or know autograd and
other devices (`kernels.ops`).
"""

import ctypes

import torch
from torch import Tensor

from bitstack.kernels import arguments, library, threads
from bitstack.kernels.arguments import DTYPES, Kept, buffer
from bitstack.kernels.selection import Variant


def compiled() -> ctypes.CDLL | None:
    """Returns the library, for `kernels.codes`; None where it was not built."""
    return library.load()


def _functions() -> ctypes.CDLL:
    functions = library.load()
    assert functions is not None, "a compiled kernel was called, but none was built"
    return functions


def linear(
    variant: Variant,
    fast: bool,
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
    signs: Tensor | None = None,
    kept: Kept | None = None,
) -> Tensor:
    """Returns `x` [..., n] times the transposed matrix, plus `bias` [rows]: [..., rows].

    Args:
        fast: Take 8-bit dot products where the variant has them.
        x: fp32, bf16 or fp16, contiguous.
        planes: uint8 [rows, ceil(n/8)] each.
        scale: fp16 [rows + n + 2^planes]; see `kernels.reference`.
        signs: int8 [2, n] of the rotation that `x` goes through before; None for no rotation.
        kept: Outliers whose product with `x` before its rotation is added: their positions row · n
            + column, rising, int32 or int64 [k], and values, fp16 [k].

    Raises:
        TypeError, ValueError: A tensor is not of that dtype and shape, or not on the CPU.
    """
    at, inputs, batch, dtype = arguments.tokens(x)
    shape = x.shape
    matrix = arguments.coded_matrix(planes, scale, rows, shape[-1])
    out = torch.empty((*shape[:-1], rows), dtype=x.dtype)
    code = _functions().bitstack_linear(
        variant.index,
        fast,
        matrix.at,
        *(arguments.NO_BUFFER if signs is None else buffer("signs", signs, torch.int8)),
        *arguments.outliers(kept),
        at,
        inputs,
        batch,
        dtype,
        *arguments.bias_of(bias, rows),
        out.data_ptr(),
        batch * rows,
        threads.count(),
    )
    if code:
        library.fail(code)
    return out


def unpack(
    variant: Variant,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    out: Tensor,
    *,
    begin: int = 0,
    ids: Tensor | None = None,
) -> None:
    """Writes rows of the matrix into `out` [count, n], fp32, bf16 or fp16.

    Args:
        begin: The first row, where there are no `ids`.
        ids: int64 [count]: the rows; None for those from `begin` on.

    Raises:
        IndexError: An id is not a row.
        TypeError, ValueError: A tensor is not of that dtype and shape, or not on the CPU.
    """
    count, columns = out.shape
    matrix = arguments.coded_matrix(planes, scale, rows, columns)
    code = _functions().bitstack_unpack(
        variant.index,
        matrix.at,
        *(arguments.NO_BUFFER if ids is None else buffer("ids", ids, torch.int64)),
        begin,
        begin + count,
        *buffer("out", out, *DTYPES),
        DTYPES[out.dtype],
        threads.count(),
    )
    if code == library.BAD_ID:
        raise IndexError(f"ids: a row id is outside 0 .. {rows - 1}")
    if code:
        library.fail(code)


def unpack_halves(
    variant: Variant, planes: list[Tensor], scale: Tensor, rows: int, out: Tensor, *, begin: int
) -> None:
    """Writes `u * T[code]`, without v, of the rows from `begin` on into `out` bf16 [count, n].

    Raises:
        TypeError, ValueError: As in `unpack`, or the variant has no halves.
    """
    count, columns = out.shape
    matrix = arguments.coded_matrix(planes, scale, rows, columns)
    code = _functions().bitstack_unpack_halves(
        variant.index,
        matrix.at,
        begin,
        begin + count,
        *buffer("out", out, torch.bfloat16),
        threads.count(),
    )
    if code:
        library.fail(code)


def scale_columns(variant: Variant, x: Tensor, scale: Tensor, rows: int) -> Tensor:
    """Returns `x` bf16 [tokens, n], contiguous, times the scale set's v: bf16, rounded once.

    Raises:
        TypeError, ValueError: As in `linear`, or the variant has no halves.
    """
    tokens, columns = x.shape
    out = torch.empty_like(x)
    code = _functions().bitstack_scale_columns(
        variant.index,
        *buffer("scale set", scale[rows : rows + columns], torch.float16),
        columns,
        *buffer("x", x, torch.bfloat16),
        tokens,
        *buffer("out", out, torch.bfloat16),
        threads.count(),
    )
    if code:
        library.fail(code)
    return out


def rotate(variant: Variant, x: Tensor, signs: Tensor, out: Tensor, *, back: bool = False) -> None:
    """Writes the vectors of `x` [..., n], rotated by `signs` int8 [2, n], into `out`.

    Both are contiguous, of one dtype (fp32, bf16 or fp16), and may be the same tensor. `back` is
    the inverse.

    Raises:
        TypeError, ValueError: A tensor is not of that dtype and shape, or not on the CPU.
    """
    at, inputs, count, dtype = arguments.tokens(x)
    code = _functions().bitstack_rotate(
        variant.index,
        at,
        inputs,
        count,
        x.shape[-1],
        dtype,
        *buffer("signs", signs, torch.int8),
        back,
        *buffer("out", out, x.dtype),
        threads.count(),
    )
    if code:
        library.fail(code)


def add_outliers(variant: Variant, out: Tensor, x: Tensor, kept: Kept) -> None:
    """Adds the products of `x` [..., n] with outliers as in `linear` to `out` [..., m], in place.

    Both are contiguous, of one dtype (fp32, bf16 or fp16). After an error `out` holds no result.

    Raises:
        TypeError, ValueError: A tensor is not of that dtype and shape, or not on the CPU.
    """
    at, inputs, batch, dtype = arguments.tokens(x)
    code = _functions().bitstack_add_outliers(
        variant.index,
        *arguments.outliers(kept),
        out.shape[-1],
        x.shape[-1],
        at,
        inputs,
        batch,
        dtype,
        *buffer("out", out, x.dtype),
        threads.count(),
    )
    if code:
        library.fail(code)
