"""Many tokens at once on the CPU: rows are unpacked into a small panel for torch's matrix product.

The panel stays in cache and is kept between calls, so that neither memory traffic nor page faults
grow with the matrix; its size is the only memory this costs. What a call with few tokens runs is
the compiled kernels' business.

Floors, t tokens and a matrix of m x n: 2 t m n operations of the matrix product, the same as dense;
beside them the planes read, and m n dense weights written to cache once and read again.
"""

import threading

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack.kernels import native

_PANEL = 1 << 24  # bytes: few enough products for their start not to count, small next to a model
_scratch = threading.local()


def panels(rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """Ranges of rows of at most a panel, in steps of 64 rows."""
    step = max(64, _PANEL // row_bytes // 64 * 64)
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


def _buffer(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Memory of this thread for one panel, [rows, columns]."""
    size = rows * columns * dtype.itemsize
    memory = getattr(_scratch, "memory", None)
    if memory is None or memory.numel() < size:
        memory = _scratch.memory = torch.empty(max(size, _PANEL), dtype=torch.uint8)
    return memory[:size].view(dtype).view(rows, columns)


def linear(
    variant: native.Variant,
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
) -> Tensor:
    """`x` [..., n] times the transposed matrix, plus `bias` [m]: [..., m] in the dtype of `x`."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    if x.dtype == torch.bfloat16 and variant.halves:
        out = _linear_halves(variant, flat, planes, scale, rows, bias)
    else:
        out = _linear(variant, flat, planes, scale, rows, bias)
    return out.view(*x.shape[:-1], rows)


def _linear(
    variant: native.Variant,
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
) -> Tensor:
    columns = x.shape[1]
    out = x.new_empty(x.shape[0], rows)
    for begin, end in panels(rows, columns * x.itemsize):
        weight = _buffer(end - begin, columns, x.dtype)
        native.unpack(variant, planes, scale, rows, weight, begin=begin)
        part = None if bias is None else bias[begin:end].to(x.dtype)
        out[:, begin:end] = F.linear(x, weight, part)
    return out


def _linear_halves(
    variant: native.Variant,
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
) -> Tensor:
    """In bf16, with v taken into `x`: what is unpacked is then a table look-up a weight."""
    columns = x.shape[1]
    scaled = native.scale_columns(variant, x, scale, rows)
    out = x.new_empty(x.shape[0], rows)
    for begin, end in panels(rows, columns * x.itemsize):
        weight = _buffer(end - begin, columns, x.dtype)
        native.unpack_halves(variant, planes, scale, rows, weight, begin=begin)
        part = None if bias is None else bias[begin:end].to(x.dtype)
        out[:, begin:end] = F.linear(scaled, weight, part)
    return out
