"""Multiplies by coded matrices: what the rest of the package calls.

In eager inference a function calls the kernel directly, since an operator's dispatch costs as much
as a small product; elsewhere, the torch operator. Where the scale set itself requires gradients,
the reference runs, which torch differentiates. Does not compute; see `kernels.eager`. Does not
define the operators; see `kernels.operators`.
"""

import torch
from torch import Tensor

import bitstack.kernels.operators  # noqa: F401 - it registers torch.ops.bitstack
from bitstack.kernels import arguments, checks, dispatch, eager, outliers, reference


def coded_linear(
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None = None,
    *,
    seed: int = 0,
    kept: arguments.Kept | None = None,
) -> Tensor:
    """Returns `x` [..., n] times the transposed matrix, plus `bias` [m]: [..., m], dtype of `x`.

    Args:
        planes: j planes, uint8 [m, ceil(n/8)] each, that of the lowest bit first.
        scale: The scale set, fp16 [m + n + 2^j]; see `kernels.reference`.
        rows: m.
        seed: Rotate `x` before; see `rotate`. 0: no rotation.
        kept: Positions and values of outliers, part of the matrix; see `kernels.outliers`.

    Raises:
        UserError: `x` is not of floating point, or not on the device of the planes.
        TypeError, ValueError: Another tensor is not of the dtype and shape above.
    """
    graded = torch.is_grad_enabled()
    needs_grad = graded and (x.requires_grad or (bias is not None and bias.requires_grad))
    if graded and scale.requires_grad:
        checks.activations(x, scale.device)
        checks.matrix(planes, scale, rows, x.shape[-1], trained=True)
        y = reference.coded_linear(rotate(x, seed), planes, scale, rows, bias)
    elif not needs_grad and dispatch.is_eager(x):
        return eager.coded_linear(x, planes, scale, rows, bias, seed, kept)
    else:
        checks.activations(x, scale.device)
        y = torch.ops.bitstack.coded_linear(rotate(x, seed), planes, scale, rows, bias)
    return y if kept is None else outliers.add_products(y, x, *kept)


def coded_rows(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns rows `ids` (int64, any shape) of the matrix: fp32 [*ids.shape, columns].

    Only the bytes of those rows are read. Planes and scale set are as in `coded_linear`.

    Raises:
        IndexError: An id is not a row, on the CPU.
        TypeError, ValueError: A tensor is not of the dtype and shape above.
    """
    if torch.is_grad_enabled() and scale.requires_grad:
        checks.matrix(planes, scale, rows, columns, trained=True)
        checks.ids(ids, rows)
        return reference.coded_rows(ids, planes, scale, rows, columns)
    if dispatch.is_eager(ids):
        return eager.coded_rows(ids, planes, scale, rows, columns)
    return torch.ops.bitstack.coded_rows(ids, planes, scale, rows, columns)


def dequantize(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns the matrix, fp32 [rows, columns]: equal bit for bit to the reference's.

    Raises:
        TypeError, ValueError: A tensor is not of the dtype and shape that `coded_linear` takes.
    """
    if torch.is_grad_enabled() and scale.requires_grad:
        checks.matrix(planes, scale, rows, columns, trained=True)
        return reference.dequantize(planes, scale, rows, columns)
    if dispatch.is_eager(scale):
        return eager.dequantize(planes, scale, rows, columns)
    return torch.ops.bitstack.dequantize(planes, scale, rows, columns)


def rotate(x: Tensor, seed: int, *, back: bool = False) -> Tensor:
    """Rotates the last dimension of `x` as `kernels.rotation` defines it; gradients flow through.

    Args:
        x: Floating point [..., n].
        seed: Which rotation; 0 is none.
        back: Take the inverse.

    Raises:
        UserError: `x` is not of floating point.
        ValueError: `x` has no columns, or `seed` is not 0 to 2^63 - 1.
    """
    if not seed:
        return x
    if dispatch.is_eager(x) and not (x.requires_grad and torch.is_grad_enabled()):
        return eager.rotate(x, seed, back)
    return torch.ops.bitstack.rotate(x, seed, back)
