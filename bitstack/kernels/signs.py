"""Multiplies with published BitStack blocks: `W = sum_i S_i * (A_i B_i)`, elementwise by S_i.

Source: arXiv 2410.23918, section 3. `S_i` is one packed plane of signs in `big` bit order, uint8
[m, ceil(n/8)], a set bit is +1; `A_i` fp16 [m, k] and `B_i` fp16 [k, n] are its factors of rank k.

A block is a sum of k coded products that share one plane: `sum_r a_r * (S (b_r * x))`. For few
tokens the CPU kernels take them as k tokens of one product. Every weight costs k multiply-adds a
plane either way, so many tokens get the dense matrix rebuilt, a panel of rows at a time; the recipe
`paper` exists for comparison, not for speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack.kernels import arguments, checks, dispatch, native, packing

_PANEL = 1 << 22  # weights rebuilt at once: 16 MiB of fp32, whatever the size of the matrix
_PRODUCTS_BELOW = 8  # tokens from which rebuilding is faster


def sign_dequantize(
    planes: list[Tensor], lefts: list[Tensor], rights: list[Tensor], columns: int
) -> Tensor:
    """Returns the matrix, fp32 [m, columns].

    Args:
        planes: uint8 [m, ceil(columns/8)] each, in `big` bit order.
        lefts: The factor [m, k] of every plane.
        rights: The factor [k, columns] of every plane.

    Raises:
        TypeError, ValueError: A tensor is not of that dtype, shape and device.
    """
    _check(planes, lefts, rights, columns)
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
    """Returns `x` [..., n] times the transposed matrix, plus `bias` [m]: [..., m], dtype of `x`.

    Planes and factors are as in `sign_dequantize`.

    Raises:
        UserError: `x` is not of floating point, or not on the device of the planes.
        TypeError, ValueError: Another tensor is not of that dtype, shape and device.
    """
    _check(planes, lefts, rights, x.shape[-1] if x.dim() else 0)
    checks.activations(x, planes[0].device)
    checks.bias(bias, planes[0].shape[0], x.device)
    variant = _variant(x)
    if variant is None:
        out = _rebuilt(x, planes, lefts, rights)
    else:
        flat = _products(variant, x.reshape(-1, x.shape[-1]), planes, lefts, rights)
        out = flat.to(x.dtype).view(*x.shape[:-1], flat.shape[-1])
    return out if bias is None else out + bias.to(out.dtype)


def _check(planes: list[Tensor], lefts: list[Tensor], rights: list[Tensor], columns: int) -> None:
    """Refuses what are not signs and factors of one matrix; rows may be none, of a lookup."""
    checks.sizes(columns=columns)
    if not planes or not len(planes) == len(lefts) == len(rights):
        counts = f"{len(planes)} planes, {len(lefts)} left and {len(rights)} right factors"
        raise ValueError(f"signs: {counts}: pass as many of each, at least one")
    rows, device = planes[0].shape[0], planes[0].device
    for plane, left, right in zip(planes, lefts, rights, strict=True):
        rank = left.shape[-1]
        checks.tensor("plane", plane, (torch.uint8,), (rows, (columns + 7) // 8), device)
        checks.tensor("left factor", left, checks.FLOATS, (rows, rank), device)
        checks.tensor("right factor", right, checks.FLOATS, (rank, columns), device)


def _variant(x: Tensor) -> native.Variant | None:
    """The compiled kernel for this input; None where the dense matrix has to be rebuilt."""
    few = x.numel() < _PRODUCTS_BELOW * x.shape[-1]
    if not (
        few and dispatch.is_eager(x) and x.device.type == "cpu" and arguments.supports(x.dtype)
    ):
        return None
    return None if x.requires_grad and torch.is_grad_enabled() else dispatch.cpu_variant()


def _products(
    variant: native.Variant,
    x: Tensor,
    planes: list[Tensor],
    lefts: list[Tensor],
    rights: list[Tensor],
) -> Tensor:
    """Returns `x` [t, n] times the transposed matrix, fp32 [t, m], by t * k products a plane."""
    tokens, columns = x.shape
    rows, wide = planes[0].shape[0], planes[0].shape[1] * 8
    ones = torch.ones(rows + wide, dtype=torch.float16)
    scale = torch.cat([ones, torch.tensor([-1, 1], dtype=torch.float16)])  # a table of signs
    fast = dispatch.get_accuracy() == "fast"
    total = torch.zeros(tokens, rows)
    for plane, left, right in zip(planes, lefts, rights, strict=True):
        scaled = F.pad(x.float().unsqueeze(1) * right.float(), (0, wide - columns))
        # The kernels read `little` bit order: eight activations are reversed instead of the bits.
        reversed_ = scaled.view(-1, wide // 8, 8).flip(-1).view(-1, wide)
        out = native.linear(variant, fast, reversed_, [plane], scale, rows, None)
        total += (out.view(tokens, -1, rows) * left.float().T).sum(1)
    return total


def _rebuilt(x: Tensor, planes: list[Tensor], lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
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
    return panels[0] if len(panels) == 1 else torch.cat(panels, dim=-1)
