"""Calls the compiled CPU kernels, a library beside this file, with raw pointers.

Knows how to call each variant. Every call checks dtypes, strides and devices here and counts in
the library, since a wrong one would read or write foreign memory. Does not choose a variant (see
`kernels.selection`) nor know autograd or other devices (`kernels.ops`).
"""

import ctypes
import weakref
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bitstack.kernels import checks, library, threads
from bitstack.kernels.selection import Variant

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_NO_BUFFER = (0, 0)  # a null pointer
_NO_BIAS = (0, 0, 0)
_NO_OUTLIERS = (0, 0, 0, *_NO_BUFFER)
Kept = tuple[Tensor, Tensor]  # positions and values of outliers, see `kernels.outliers`
Buffer = tuple[int, int]  # address and number of elements


def supports(dtype: torch.dtype) -> bool:
    """Tells whether the kernels read activations of this dtype."""
    return dtype in DTYPES


def number_of(dtype: torch.dtype) -> int:
    """Returns the library's number of a dtype that it supports."""
    return DTYPES[dtype]


def compiled() -> ctypes.CDLL | None:
    """Returns the library, for `kernels.codes`; None where it was not built."""
    return library.load()


def _functions() -> ctypes.CDLL:
    functions = library.load()
    assert functions is not None, "a compiled kernel was called, but none was built"
    return functions


def buffer(what: str, value: Tensor, *dtypes: torch.dtype) -> Buffer:
    """Returns address and length of a tensor that the library may read.

    Raises:
        TypeError, ValueError: It is not of one of `dtypes`, not contiguous or not on the CPU.
    """
    if not (value.dtype in dtypes and value.is_cpu and value.is_contiguous()):
        checks.tensor(what, value, dtypes, device=checks.CPU)
    if value.is_neg():
        raise ValueError(f"{what}: its memory has the other sign: pass .resolve_neg()")
    return value.data_ptr(), value.numel()


class _Known(NamedTuple):
    """A coded matrix that was checked."""

    coded: library.Coded
    at: int  # address of `coded`
    addresses: list[int]  # of the planes and the scale set
    tensors: list[weakref.ref[Tensor]]  # each takes the entry away when its tensor dies


_known: dict[tuple[int, ...], _Known] = {}  # by sizes and ids of tensors


def _coded(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> _Known:
    """Returns a coded matrix as the library takes it, checked.

    A product of one token takes as long as a few checks of a tensor. So each matrix is checked
    once, and again where one of its tensors is another or has moved. The caller holds what it gets
    until its call has ended: another thread that checks the same matrix may take its place here.
    """
    key = (rows, columns, id(scale), *map(id, planes))
    known = _known.get(key)
    if known is None or known.addresses != [t.data_ptr() for t in (scale, *planes)]:
        known = _known[key] = _check(key, planes, scale, rows, columns)
    return known


def _check(
    key: tuple[int, ...], planes: list[Tensor], scale: Tensor, rows: int, columns: int
) -> _Known:
    checks.matrix(planes, scale, rows, columns)
    if not scale.is_cpu:
        raise ValueError(f"planes: on {scale.device}: move all arguments to the CPU")
    tensors = [scale, *planes]
    if any(t.is_neg() for t in tensors):
        raise ValueError("scale set: its memory has the other sign: pass .resolve_neg()")
    addresses = [t.data_ptr() for t in tensors]
    coded = library.Coded(
        tuple(addresses[1:]), tuple(plane.nbytes for plane in planes),
        addresses[0], scale.numel(), rows, columns, len(planes),
    )  # fmt: skip
    forget = partial(_known.pop, key, None)  # not by name: at the process's end there is none
    watched = [weakref.ref(t, lambda _: forget()) for t in tensors]
    return _Known(coded, ctypes.addressof(coded), addresses, watched)


def _outliers(kept: Kept) -> tuple[int, bool, int, int, int]:
    positions, values = kept
    if positions.dim() != 1 or positions.shape != values.shape:
        checks.outliers(positions, values, 1, checks.CPU)
    at, count = buffer("positions of outliers", positions, torch.int32, torch.int64)
    wide = positions.dtype is torch.int64
    return at, wide, count, *buffer("values of outliers", values, torch.float16)


def _tokens(x: Tensor) -> tuple[int, int, int, int]:
    """Address, numbers, vectors and dtype of `x` [..., n]."""
    dtype = DTYPES.get(x.dtype)
    if dtype is None or not x.is_cpu or not x.is_contiguous() or x.is_neg():
        buffer("x", x, *DTYPES)
        raise ValueError(f"x: {x.device} {x.dtype} cannot be read")
    count = x.numel()
    try:
        return x.data_ptr(), count, count // x.shape[-1], dtype
    except (IndexError, ZeroDivisionError):
        checks.activations(x, checks.CPU)
        raise


def _bias(bias: Tensor, rows: int) -> tuple[int, int, int]:
    at, count = buffer("bias", bias, *DTYPES)
    if at == 0 or bias.shape != (rows,):  # a null pointer says that there is none
        raise ValueError(f"bias: shape {list(bias.shape)} or its memory is not that of [{rows}]")
    return at, count, DTYPES[bias.dtype]


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
    at, inputs, batch, dtype = _tokens(x)
    shape = x.shape
    matrix = _coded(planes, scale, rows, shape[-1])
    out = torch.empty((*shape[:-1], rows), dtype=x.dtype)
    code = _functions().bitstack_linear(
        variant.index,
        fast,
        matrix.at,
        *(_NO_BUFFER if signs is None else buffer("signs", signs, torch.int8)),
        *(_NO_OUTLIERS if kept is None else _outliers(kept)),
        at,
        inputs,
        batch,
        dtype,
        *(_NO_BIAS if bias is None else _bias(bias, rows)),
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
    matrix = _coded(planes, scale, rows, columns)
    code = _functions().bitstack_unpack(
        variant.index,
        matrix.at,
        *(_NO_BUFFER if ids is None else buffer("ids", ids, torch.int64)),
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
    matrix = _coded(planes, scale, rows, columns)
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
    at, inputs, count, dtype = _tokens(x)
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
    at, inputs, batch, dtype = _tokens(x)
    code = _functions().bitstack_add_outliers(
        variant.index,
        *_outliers(kept),
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
