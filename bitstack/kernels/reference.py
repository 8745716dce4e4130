"""Computes the coded product in plain torch: the definition that other kernels are tested against.

A coded matrix is `W = diag(u) T[code] diag(v)`: `u` fp16 [m], `v` fp16 [n], a table `T` fp16 [2^j]
and j packed bit planes, uint8 [m, ceil(n/8)] each (see `packing`). The three small tensors of a
level are one fp16 vector, the scale set: u, then v, then T. A matrix is unpacked whole, in fp32,
at every call. Is not fast; see `kernels.native` and `kernels.triton_kernels`.
"""

import torch.nn.functional as F
from torch import Tensor

from bitstack.kernels import packing


def split_scale(scale: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns views (u [m], v [n], T [2^j]) of one scale set."""
    return scale[:rows], scale[rows : rows + columns], scale[rows + columns :]


def dequantize(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns the matrix, fp32 [rows, columns]."""
    u, v, table = split_scale(scale.float(), rows, columns)
    code = packing.codes(planes, columns)
    return table[code.int()].mul_(v).mul_(u.unsqueeze(1))


def coded_linear(
    x: Tensor, planes: list[Tensor], scale: Tensor, rows: int, bias: Tensor | None = None
) -> Tensor:
    """Returns `x` [..., n] times the transposed matrix, plus `bias` [m]: [..., m], dtype of `x`."""
    weight = dequantize(planes, scale, rows, x.shape[-1]).to(x.dtype)
    return F.linear(x, weight, bias)


def coded_rows(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns rows `ids` (int64, any shape) of the matrix: fp32 [*ids.shape, columns]."""
    flat = ids.reshape(-1)
    u, v, table = split_scale(scale.float(), rows, columns)
    code = packing.codes([plane[flat] for plane in planes], columns)
    values = table[code.int()].mul_(v).mul_(u[flat].unsqueeze(1))
    return values.view(*ids.shape, columns)
