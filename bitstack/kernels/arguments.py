"""Turns tensors into arguments of the compiled CPU kernels: raw pointers, lengths and dtypes.

Checks dtypes, strides and devices, since a wrong one would read or write foreign memory. Does not
call the kernels; see `kernels.native`.
"""

import ctypes
import weakref
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bitstack.kernels import checks, library

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
NO_BUFFER = (0, 0)  # a null pointer
NO_BIAS = (0, 0, 0)
NO_OUTLIERS = (0, False, 0, *NO_BUFFER)
Kept = tuple[Tensor, Tensor]  # positions and values of outliers, see `kernels.outliers`
Buffer = tuple[int, int]  # address and number of elements


def supports(dtype: torch.dtype) -> bool:
    """Tells whether the kernels read activations of this dtype."""
    return dtype in DTYPES


def number_of(dtype: torch.dtype) -> int:
    """Returns the library's number of a dtype that it supports."""
    return DTYPES[dtype]


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


def coded_matrix(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> _Known:
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


def outliers(kept: Kept | None) -> tuple[int, bool, int, int, int]:
    """Returns outliers as the library takes them: null pointers for none.

    Raises:
        TypeError, ValueError: They are not of the right dtype and shape, or not on the CPU.
    """
    if kept is None:
        return NO_OUTLIERS
    positions, values = kept
    if positions.dim() != 1 or positions.shape != values.shape:
        checks.outliers(positions, values, 1, checks.CPU)
    at, count = buffer("positions of outliers", positions, torch.int32, torch.int64)
    wide = positions.dtype is torch.int64
    return at, wide, count, *buffer("values of outliers", values, torch.float16)


def tokens(x: Tensor) -> tuple[int, int, int, int]:
    """Returns address, numbers, vectors and dtype of `x` [..., n].

    Raises:
        TypeError, ValueError: `x` is not of a supported dtype, not contiguous or not on the CPU.
    """
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


def bias_of(bias: Tensor | None, rows: int) -> tuple[int, int, int]:
    """Returns a bias [rows] as the library takes it: address, numbers, dtype; nulls for none.

    Raises:
        TypeError, ValueError: It is not of a supported dtype and that shape, or not on the CPU.
    """
    if bias is None:
        return NO_BIAS
    at, count = buffer("bias", bias, *DTYPES)
    if at == 0 or bias.shape != (rows,):  # a null pointer says that there is none
        raise ValueError(f"bias: shape {list(bias.shape)} or its memory is not that of [{rows}]")
    return at, count, DTYPES[bias.dtype]
