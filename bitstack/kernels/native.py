"""Calls the compiled CPU kernels, a library beside this file, with raw pointers.

Knows which variants the machine runs and how to call one. Does not choose one (see
`kernels.dispatch`), check arguments or know autograd and other devices (see `kernels.ops`).
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitstack.kernels import threads

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_NONE = 0  # a null pointer
_NO_OUTLIERS = (_NONE, 0, _NONE, 0)

Kept = tuple[Tensor, Tensor]  # positions and values of outliers, see `kernels.outliers`

_pointer, _int32, _int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_flag = ctypes.POINTER(ctypes.c_int32)


@dataclass(frozen=True)
class Variant:
    """One compiled kernel, and whether this machine `runs` it."""

    index: int  # the lower, the faster
    name: str
    runs: bool
    fast: bool  # has 8-bit dot products
    halves: bool  # can unpack to 16 bits, for matrix products in bf16


@cache
def _library() -> ctypes.CDLL | None:
    for path in sorted(Path(__file__).parent.glob("_cpu*")):
        if path.suffix in (".so", ".pyd", ".dylib"):
            try:
                return _declare(ctypes.CDLL(str(path)))
            except (OSError, AttributeError):  # built for another system, or from other sources
                continue
    return None


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    matrix: list[Any] = [_int32, _pointer, _int64, _int64]
    library.bitstack_variant.argtypes = [_int32, _flag, _flag, _flag]
    library.bitstack_variant.restype = ctypes.c_char_p
    outliers: list[Any] = [_pointer, _int32, _pointer, _int64]
    library.bitstack_linear.argtypes = [_int32, _int32, _pointer, *matrix, _pointer, *outliers]
    library.bitstack_linear.argtypes += [_pointer, _int64, _int32, _pointer, _int32, _pointer]
    library.bitstack_linear.argtypes += [_int32]
    library.bitstack_linear.restype = None
    library.bitstack_unpack.argtypes = [_int32, _pointer, *matrix, _pointer, _int64, _int64]
    library.bitstack_unpack.argtypes += [_pointer, _int32, _int32]
    library.bitstack_unpack_halves.argtypes = [_int32, _pointer, *matrix, _int64, _int64]
    library.bitstack_unpack_halves.argtypes += [_pointer, _int32]
    library.bitstack_unpack_halves.restype = None
    library.bitstack_scale_columns.argtypes = [_int32, _pointer, _int64, _int64, _pointer]
    library.bitstack_scale_columns.argtypes += [_int64, _pointer, _int32]
    library.bitstack_scale_columns.restype = None
    library.bitstack_rotate.argtypes = [_int32, _pointer, _int64, _int64, _int32, _pointer]
    library.bitstack_rotate.argtypes += [_int32, _pointer, _int32]
    library.bitstack_rotate.restype = None
    library.bitstack_add_outliers.argtypes = [_int32, *outliers, _int64, _int64, _pointer]
    library.bitstack_add_outliers.argtypes += [_int64, _int32, _pointer, _int32]
    library.bitstack_add_outliers.restype = None
    library.bitstack_descend.argtypes = [_int64] * 4 + [_int32] * 2 + [_pointer] * 9 + [_int32]
    library.bitstack_descend.restype = None
    library.bitstack_values.argtypes = [_pointer, _int32, _pointer, _pointer, _pointer]
    library.bitstack_values.argtypes += [_int64, _int64, _pointer, _int32]
    library.bitstack_values.restype = None
    library.bitstack_sum_by_code.argtypes = [_pointer, _int32, _pointer, _pointer, _pointer]
    library.bitstack_sum_by_code.argtypes += [_int64, _int64, _int32, _pointer, _int32]
    library.bitstack_sum_by_code.restype = None
    library.bitstack_read.argtypes = [_pointer, _int64, _int32]
    library.bitstack_read.restype = ctypes.c_uint64
    return library


@cache
def variants() -> tuple[Variant, ...]:
    """Returns all compiled variants, best first; none where the library was not built."""
    library = _library()
    compiled: list[Variant] = []
    while library is not None:
        flags = [ctypes.c_int32() for _ in range(3)]
        name = library.bitstack_variant(len(compiled), *[ctypes.byref(flag) for flag in flags])
        if name is None:
            break
        has = [bool(flag.value) for flag in flags]
        compiled.append(Variant(len(compiled), name.decode(), *has))
    return tuple(compiled)


def supports(dtype: torch.dtype) -> bool:
    """Tells whether the kernels read activations of this dtype."""
    return dtype in _DTYPES


def _pointers(planes: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (_pointer * len(planes))(*[plane.data_ptr() for plane in planes])


def _outliers(positions: Tensor, values: Tensor) -> tuple[int, bool, int, int]:
    wide = positions.dtype is torch.int64
    return positions.data_ptr(), wide, values.data_ptr(), values.numel()


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
    """
    library = _library()
    assert library is not None
    columns = x.shape[-1]
    out = x.new_empty((*x.shape[:-1], rows))
    library.bitstack_linear(
        variant.index,
        fast,
        _pointers(planes),
        len(planes),
        scale.data_ptr(),
        rows,
        columns,
        _NONE if signs is None else signs.data_ptr(),
        *(_NO_OUTLIERS if kept is None else _outliers(*kept)),
        x.data_ptr(),
        x.numel() // columns,
        _DTYPES[x.dtype],
        _NONE if bias is None else bias.data_ptr(),
        0 if bias is None else _DTYPES[bias.dtype],
        out.data_ptr(),
        threads.count(),
    )
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
    """
    library = _library()
    assert library is not None
    outside = library.bitstack_unpack(
        variant.index,
        _pointers(planes),
        len(planes),
        scale.data_ptr(),
        rows,
        out.shape[1],
        _NONE if ids is None else ids.data_ptr(),
        begin,
        begin + out.shape[0],
        out.data_ptr(),
        _DTYPES[out.dtype],
        threads.count(),
    )
    if outside:
        raise IndexError(f"a row id is outside 0 .. {rows - 1}")


def unpack_halves(
    variant: Variant, planes: list[Tensor], scale: Tensor, rows: int, out: Tensor, *, begin: int
) -> None:
    """Writes `u * T[code]`, without v, of the rows from `begin` on into `out` bf16 [count, n]."""
    library = _library()
    assert library is not None
    library.bitstack_unpack_halves(
        variant.index,
        _pointers(planes),
        len(planes),
        scale.data_ptr(),
        rows,
        out.shape[1],
        begin,
        begin + out.shape[0],
        out.data_ptr(),
        threads.count(),
    )


def scale_columns(variant: Variant, x: Tensor, scale: Tensor, rows: int) -> Tensor:
    """Returns `x` bf16 [tokens, n], contiguous, times the scale set's v: bf16, rounded once."""
    library = _library()
    assert library is not None
    out = torch.empty_like(x)
    library.bitstack_scale_columns(
        variant.index,
        scale.data_ptr(),
        rows,
        x.shape[1],
        x.data_ptr(),
        x.shape[0],
        out.data_ptr(),
        threads.count(),
    )
    return out


def rotate(variant: Variant, x: Tensor, signs: Tensor, out: Tensor, *, back: bool = False) -> None:
    """Writes the vectors of `x` [..., n], rotated by `signs` int8 [2, n], into `out`.

    Both are contiguous, of one dtype (fp32, bf16 or fp16), and may be the same tensor. `back` is
    the inverse.
    """
    library = _library()
    assert library is not None
    columns = x.shape[-1]
    library.bitstack_rotate(
        variant.index,
        x.data_ptr(),
        x.numel() // columns,
        columns,
        _DTYPES[x.dtype],
        signs.data_ptr(),
        back,
        out.data_ptr(),
        threads.count(),
    )


def add_outliers(variant: Variant, out: Tensor, x: Tensor, kept: Kept) -> None:
    """Adds the products of `x` [..., n] with outliers as in `linear` to `out` [..., m], in place.

    Both are contiguous, of one dtype (fp32, bf16 or fp16).
    """
    library = _library()
    assert library is not None
    columns = x.shape[-1]
    library.bitstack_add_outliers(
        variant.index,
        *_outliers(*kept),
        out.shape[-1],
        columns,
        x.data_ptr(),
        x.numel() // columns,
        _DTYPES[x.dtype],
        out.data_ptr(),
        threads.count(),
    )


def read(memory: Tensor) -> None:
    """Reads all bytes of `memory` once with torch's threads, to measure bandwidth."""
    library = _library()
    assert library is not None
    library.bitstack_read(memory.data_ptr(), memory.nbytes, threads.count())


def compiled() -> ctypes.CDLL | None:
    """Returns the library, for `kernels.codes`; None where it was not built."""
    return _library()
