"""The published BitStack block in plain torch: `W = sum_i S_i * (A_i B_i)`.

Source: arXiv 2410.23918, section 3. `S_i` is one packed plane of signs in `big` bit order, uint8
[m, ceil(n/8)], a set bit is +1; `A_i` fp16 [m, k] and `B_i` fp16 [k, n] are its factors of rank k.
Every weight costs k multiply-adds a plane, so the dense matrix is rebuilt a panel of rows at a
time; the recipe `paper` is there to be compared against, not to be fast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack.kernels import packing

_PANEL = 1 << 22  # weights rebuilt at once: 16 MiB of fp32, whatever the size of the matrix


def sign_dequantize(
    planes: list[Tensor], lefts: list[Tensor], rights: list[Tensor], columns: int
) -> Tensor:
    """The matrix, fp32 [m, columns]; one factor [m, k] and [k, n] a plane."""
    assert planes
    assert len(planes) == len(lefts) == len(rights)
    total = torch.zeros(planes[0].shape[0], columns, device=planes[0].device)
    for plane, left, right in zip(planes, lefts, rights, strict=True):
        product = left.float() @ right.float()
        negative = packing.unpack(plane, columns, order="big") == 0
        total += torch.where(negative, -product, product)
    return total


def sign_linear(
    x: Tensor,
    planes: list[Tensor],
    lefts: list[Tensor],
    rights: list[Tensor],
    bias: Tensor | None = None,
) -> Tensor:
    """`x` [..., n] times the transposed matrix, plus `bias` [m]: [..., m] in the dtype of `x`."""
    columns = x.shape[-1]
    rows = planes[0].shape[0]
    step = max(1, _PANEL // columns)
    panels = []
    for start in range(0, rows, step):
        part = slice(start, start + step)
        weight = sign_dequantize(
            [plane[part] for plane in planes], [left[part] for left in lefts], rights, columns
        )
        panels.append(F.linear(x, weight.to(x.dtype)))
    out = panels[0] if len(panels) == 1 else torch.cat(panels, dim=-1)
    return out if bias is None else out + bias.to(out.dtype)
