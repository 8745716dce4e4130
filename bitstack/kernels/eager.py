"""Runs the coded product on the device where its tensors lie, by the fastest kernel there.

The compiled CPU kernels, Triton on a GPU, or else the reference in torch. Every function checks its
arguments. Does not know autograd or torch.compile; see `kernels.ops` and `kernels.operators`. Does
not choose the kernel; see `kernels.dispatch`.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from bitstack.kernels import (
    arguments,
    checks,
    dispatch,
    matmul,
    native,
    outliers,
    reference,
    rotation,
)

MATMUL_FROM = 24  # tokens from which unpacked panels and torch's matrix product are faster


@cache
def _triton() -> ModuleType | None:
    if dispatch.which("cuda").name != "triton":
        return None
    return import_module("bitstack.kernels.triton_kernels")


def rotate(x: Tensor, seed: int, back: bool = False) -> Tensor:
    """Returns `x`, rotated; see `ops.rotate`."""
    if not seed:
        return x
    checks.activations(x, x.device)
    variant = dispatch.cpu_variant() if x.is_cpu else None
    if variant is None or not arguments.supports(x.dtype):
        return rotation.rotate(x, seed, back=back)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    native.rotate(variant, x.contiguous(), rotation.signs(x.shape[-1], seed), out, back=back)
    return out


def coded_linear(
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
    seed: int = 0,
    kept: arguments.Kept | None = None,
) -> Tensor:
    """Returns the product of `ops.coded_linear`, without a gradient."""
    variant = dispatch.cpu_variant() if x.is_cpu else None
    if variant is not None and arguments.supports(x.dtype) and scale.is_cpu:
        x = x.contiguous()
        bias = None if bias is None else bias.contiguous()
        if x.dim() and x.numel() >= MATMUL_FROM * x.shape[-1] > 0:
            y = matmul.linear(variant, rotate(x, seed), planes, scale, rows, bias)
            if kept is not None:
                native.add_outliers(variant, y, x, kept)
            return y
        fast = dispatch.get_accuracy() == "fast"
        signs = rotation.signs(x.shape[-1], seed) if seed else None  # rotated within the kernel
        return native.linear(variant, fast, x, planes, scale, rows, bias, signs, kept)
    checks.activations(x, scale.device)
    checks.matrix(planes, scale, rows, x.shape[-1])
    checks.bias(bias, rows, x.device)
    rotated = rotate(x, seed)
    if x.is_cuda and (triton := _triton()) is not None:
        y = triton.coded_linear(rotated, planes, scale, rows, bias)
    else:
        y = reference.coded_linear(rotated, planes, scale, rows, bias)
    return y if kept is None else outliers.add_products(y, x, *kept)


def coded_rows(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns the rows of `ops.coded_rows`, without a gradient."""
    variant = dispatch.cpu_variant() if ids.is_cpu else None
    check_rows(ids, planes, scale, rows, columns)
    checks.ids(ids, rows)
    if ids.is_cuda and (triton := _triton()) is not None:
        return triton.coded_rows(ids, planes, scale, rows, columns)
    if variant is None:
        return reference.coded_rows(ids, planes, scale, rows, columns)
    flat = ids.reshape(-1).to(torch.int64).contiguous()
    out = torch.empty(flat.shape[0], columns)
    native.unpack(variant, planes, scale, rows, out, ids=flat)
    return out.view(*ids.shape, columns)


def dequantize(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns the matrix of `ops.dequantize`, without a gradient."""
    variant = dispatch.cpu_variant() if scale.is_cpu else None
    checks.matrix(planes, scale, rows, columns)
    if scale.is_cuda and (triton := _triton()) is not None:
        return triton.dequantize(planes, scale, rows, columns)
    if variant is None:
        return reference.dequantize(planes, scale, rows, columns)
    out = torch.empty(rows, columns)
    native.unpack(variant, planes, scale, rows, out)
    return out


def input_gradient(
    grad: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int
) -> Tensor:
    """Returns `grad` [..., m] times the matrix: [..., n], a panel of rows at a time."""
    checks.activations(grad, scale.device)
    checks.matrix(planes, scale, rows, columns)
    if grad.shape[-1] != rows:
        raise ValueError(f"grad: shape {list(grad.shape)} does not end in {rows} rows")
    flat = grad.reshape(-1, rows)
    total = torch.zeros(flat.shape[0], columns, dtype=torch.float32, device=grad.device)
    u, shared = scale[:rows], scale[rows:]
    for begin, end in matmul.panels(rows, 4 * columns, 1):
        part = [plane[begin:end] for plane in planes]
        weight = dequantize(part, torch.cat([u[begin:end], shared]), end - begin, columns)
        total += (flat[:, begin:end] @ weight.to(grad.dtype)).float()
    return total.to(grad.dtype).view(*grad.shape[:-1], columns)


def check_rows(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> None:
    """Raises an error of `ops.coded_rows` for its arguments, the values of ids aside."""
    checks.matrix(planes, scale, rows, columns)
    if ids.device != scale.device:
        raise ValueError(f"ids: on {ids.device}, packed weights on {scale.device}: move one")
