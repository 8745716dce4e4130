"""The compiled CPU kernels: found beside this file, called with raw pointers.

Knows which variants the machine runs and how to call one. Which is chosen, autograd and other
devices are the business of `dispatch` and `ops`; arguments are taken as checked.
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

_pointer, _int32, _int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_flag = ctypes.POINTER(ctypes.c_int32)


@dataclass(frozen=True)
class Variant:
    """One compiled kernel: whether this machine `runs` it, and what it has of its own."""

    index: int
    name: str
    runs: bool
    fast: bool  # 8-bit dot products
    halves: bool  # unpacking to 16 bits, for matrix products in bf16


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
    library.bitstack_linear.argtypes = [_int32, _int32, _pointer, *matrix, _pointer, _int64]
    library.bitstack_linear.argtypes += [_int32, _pointer, _int32, _pointer, _int32]
    library.bitstack_linear.restype = None
    library.bitstack_unpack.argtypes = [_int32, _pointer, *matrix, _pointer, _int64, _int64]
    library.bitstack_unpack.argtypes += [_pointer, _int32, _int32]
    library.bitstack_unpack_halves.argtypes = [_int32, _pointer, *matrix, _int64, _int64]
    library.bitstack_unpack_halves.argtypes += [_pointer, _int32]
    library.bitstack_unpack_halves.restype = None
    library.bitstack_scale_columns.argtypes = [_int32, _pointer, _int64, _int64, _pointer]
    library.bitstack_scale_columns.argtypes += [_int64, _pointer, _int32]
    library.bitstack_scale_columns.restype = None
    library.bitstack_descend.argtypes = [_int64, _int64, _int32, _int32, _int32]
    library.bitstack_descend.argtypes += [_pointer] * 9 + [_int32]
    library.bitstack_descend.restype = None
    library.bitstack_read.argtypes = [_pointer, _int64, _int32]
    library.bitstack_read.restype = ctypes.c_uint64
    return library


@cache
def variants() -> tuple[Variant, ...]:
    """All compiled variants, best first; empty where the library was not built."""
    library = _library()
    found: list[Variant] = []
    while library is not None:
        flags = [ctypes.c_int32() for _ in range(3)]
        name = library.bitstack_variant(len(found), *[ctypes.byref(flag) for flag in flags])
        if name is None:
            break
        found.append(Variant(len(found), name.decode(), *[bool(flag.value) for flag in flags]))
    return tuple(found)


def supports(dtype: torch.dtype) -> bool:
    """Whether activations of this dtype are read directly."""
    return dtype in _DTYPES


def _pointers(planes: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (_pointer * len(planes))(*[plane.data_ptr() for plane in planes])


def linear(
    variant: Variant,
    fast: bool,
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
) -> Tensor:
    """`x` [..., n], contiguous, times the transposed matrix, plus `bias` [rows]: [..., rows]."""
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
    """Rows `ids` (int64), or rows from `begin` on, into `out` [count, n], fp32, bf16 or fp16.

    Raises IndexError where an id is not a row.
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
    """`u * T[code]` of the rows from `begin` on into `out` bf16 [count, n]."""
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
    """`x` bf16 [tokens, n], contiguous, times the scale set's v: bf16, rounded once."""
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


def read(memory: Tensor) -> None:
    """Read all bytes of `memory` once with torch's threads: for measuring bandwidth."""
    library = _library()
    assert library is not None
    library.bitstack_read(memory.data_ptr(), memory.nbytes, threads.count())


def searches() -> bool:
    """Whether `descend` can be called."""
    return _library() is not None


def descend(
    u: Tensor,
    v: Tensor,
    tables: list[Tensor],
    felt: Tensor,
    weights: Tensor,
    products: Tensor,
    code: Tensor,
    first: int,
    candidates: int,
) -> Tensor:
    """One panel of `decompose.search`: J levels, p columns, m rows, fp32 and contiguous.

    `u` [J, m], `v` [J, p], `felt` [J, p, p], `weights` [J], `products` [J, p, m] (spent), `code`
    uint8 [p, m] (chosen in place). Returns how the errors moved, [J, p, m].
    """
    library = _library()
    assert library is not None
    assert all(t.is_contiguous() for t in (u, v, felt, weights, products, code, *tables))
    moves = torch.empty_like(products)
    planes = [len(table).bit_length() - 1 for table in tables]
    levels, columns, rows = products.shape
    pointers = (ctypes.c_void_p * levels)(*[table.data_ptr() for table in tables])
    sizes = (ctypes.c_int32 * levels)(*planes)
    library.bitstack_descend(
        rows, columns, levels, first, candidates, ctypes.addressof(sizes),
        ctypes.addressof(pointers), u.data_ptr(), v.data_ptr(), felt.data_ptr(),
        weights.data_ptr(), products.data_ptr(), moves.data_ptr(), code.data_ptr(),
        threads.count(),
    )  # fmt: skip
    return moves
