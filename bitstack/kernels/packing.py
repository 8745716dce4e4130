"""Packs the bits of a plane into bytes and back, and joins planes to codes.

Two bit orders exist. Codes use `little`: column 8k + i is bit i of byte k, so that eight bytes read
as one word are the mask of 64 columns. The published BitStack format uses `big`. Rows start at a
byte; the unused bits of a row's last byte are zero. Does not know what bits mean; see
`kernels.reference`.
"""

import torch
from torch import Tensor

from bitstack.kernels import checks
from bitstack.kernels.layout import row_bytes

_WEIGHTS = {"little": [1, 2, 4, 8, 16, 32, 64, 128], "big": [128, 64, 32, 16, 8, 4, 2, 1]}
_SHIFTS = {"little": [0, 1, 2, 3, 4, 5, 6, 7], "big": [7, 6, 5, 4, 3, 2, 1, 0]}


def pack(bits: Tensor, *, order: str = "little") -> Tensor:
    """Packs `bits` [m, n] (bool, or numbers: any but 0 is a set bit) into uint8 [m, ceil(n / 8)].

    Raises:
        ValueError: `bits` are not [m, n], or there is no such order.
    """
    _check_order(order)
    if bits.dim() != 2:
        raise ValueError(f"bits: shape {list(bits.shape)} is not [m, n]")
    m, n = bits.shape
    padded = torch.zeros(m, row_bytes(n) * 8, dtype=torch.uint8, device=bits.device)
    padded[:, :n] = bits.bool()
    weights = torch.tensor(_WEIGHTS[order], dtype=torch.uint8, device=bits.device)
    return (padded.view(m, row_bytes(n), 8) * weights).sum(2, dtype=torch.uint8)


def unpack(plane: Tensor, columns: int, *, order: str = "little") -> Tensor:
    """Unpacks `plane` uint8 [m, ceil(columns / 8)] into 0 and 1, uint8 [m, columns].

    Raises:
        ValueError: `plane` is not of that dtype and shape, or there is no such order.
    """
    _check_order(order)
    if plane.dtype != torch.uint8 or plane.dim() != 2 or plane.shape[1] != row_bytes(columns):
        given = f"{plane.dtype} {list(plane.shape)}"
        raise ValueError(f"plane: {given} is not uint8 [m, {row_bytes(columns)}]")
    shifts = torch.tensor(_SHIFTS[order], dtype=torch.uint8, device=plane.device)
    bits = (plane.unsqueeze(2) >> shifts) & 1
    return bits.flatten(1)[:, :columns]


def codes(planes: list[Tensor], columns: int) -> Tensor:
    """Returns the codes, uint8 [m, columns], of 1 to 8 planes: plane p (from 0) is bit p.

    Raises:
        ValueError: There are fewer or more planes, or they are not of one shape.
    """
    if not 1 <= len(planes) <= checks.MOST_PLANES or len({p.shape for p in planes}) > 1:
        shapes = [list(plane.shape) for plane in planes]
        raise ValueError(f"planes: shapes {shapes}: pass 1 to 8 of one shape")
    code = unpack(planes[0], columns)
    for p, plane in enumerate(planes[1:], start=1):
        code |= unpack(plane, columns) << p
    return code


def _check_order(order: str) -> None:
    if order not in _SHIFTS:
        raise ValueError(f"order: {order!r} is not known: pass {' or '.join(_SHIFTS)}")
