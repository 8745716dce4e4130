"""Makes the coded product a torch operator: one node for torch.compile and autograd.

`coded_linear`, `coded_rows` and `dequantize` are what the rest of the package calls. In eager CPU
inference they call the kernel directly, since an operator's dispatch costs as much as a small
product. Weights are constants: gradients flow to `x` and to `bias`. Where the scale set itself
requires gradients, the reference runs, which torch differentiates. Does not choose the kernel; see
`kernels.dispatch`.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from bitstack.kernels import checks, dispatch, matmul, native, outliers, reference, rotation

MATMUL_FROM = 24  # tokens from which unpacked panels and torch's matrix product are faster


def coded_linear(
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None = None,
    *,
    seed: int = 0,
    kept: native.Kept | None = None,
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
        return _linear(x, planes, scale, rows, bias, seed, kept)
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
        return _rows(ids, planes, scale, rows, columns)
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
        return _dequantize(planes, scale, rows, columns)
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
        return _rotate(x, seed, back)
    return torch.ops.bitstack.rotate(x, seed, back)


@cache
def _triton() -> ModuleType | None:
    if dispatch.which("cuda").name != "triton":
        return None
    return import_module("bitstack.kernels.triton_kernels")


def _rotate(x: Tensor, seed: int, back: bool = False) -> Tensor:
    if not seed:
        return x
    checks.activations(x, x.device)
    variant = dispatch.cpu_variant() if x.is_cpu else None
    if variant is None or not native.supports(x.dtype):
        return rotation.rotate(x, seed, back=back)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    native.rotate(variant, x.contiguous(), rotation.signs(x.shape[-1], seed), out, back=back)
    return out


def _linear(
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
    seed: int = 0,
    kept: native.Kept | None = None,
) -> Tensor:
    variant = dispatch.cpu_variant() if x.is_cpu else None
    if variant is not None and native.supports(x.dtype) and scale.is_cpu:
        x = x.contiguous()
        bias = None if bias is None else bias.contiguous()
        if x.dim() and x.numel() >= MATMUL_FROM * x.shape[-1] > 0:
            y = matmul.linear(variant, _rotate(x, seed), planes, scale, rows, bias)
            if kept is not None:
                native.add_outliers(variant, y, x, kept)
            return y
        fast = dispatch.get_accuracy() == "fast"
        signs = rotation.signs(x.shape[-1], seed) if seed else None  # rotated within the kernel
        return native.linear(variant, fast, x, planes, scale, rows, bias, signs, kept)
    checks.activations(x, scale.device)
    checks.matrix(planes, scale, rows, x.shape[-1])
    checks.bias(bias, rows, x.device)
    rotated = _rotate(x, seed)
    if x.is_cuda and (triton := _triton()) is not None:
        y = triton.coded_linear(rotated, planes, scale, rows, bias)
    else:
        y = reference.coded_linear(rotated, planes, scale, rows, bias)
    return y if kept is None else outliers.add_products(y, x, *kept)


def _rows(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    variant = dispatch.cpu_variant() if ids.is_cpu else None
    _check_rows(ids, planes, scale, rows, columns)
    checks.ids(ids, rows)
    if ids.is_cuda and (triton := _triton()) is not None:
        return triton.coded_rows(ids, planes, scale, rows, columns)
    if variant is None:
        return reference.coded_rows(ids, planes, scale, rows, columns)
    flat = ids.reshape(-1).to(torch.int64).contiguous()
    out = torch.empty(flat.shape[0], columns)
    native.unpack(variant, planes, scale, rows, out, ids=flat)
    return out.view(*ids.shape, columns)


def _dequantize(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    variant = dispatch.cpu_variant() if scale.is_cpu else None
    checks.matrix(planes, scale, rows, columns)
    if scale.is_cuda and (triton := _triton()) is not None:
        return triton.dequantize(planes, scale, rows, columns)
    if variant is None:
        return reference.dequantize(planes, scale, rows, columns)
    out = torch.empty(rows, columns)
    native.unpack(variant, planes, scale, rows, out)
    return out


def _input_gradient(
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
        weight = _dequantize(part, torch.cat([u[begin:end], shared]), end - begin, columns)
        total += (flat[:, begin:end] @ weight.to(grad.dtype)).float()
    return total.to(grad.dtype).view(*grad.shape[:-1], columns)


def _check_product(
    x: Tensor, planes: list[Tensor], scale: Tensor, rows: int, bias: Tensor | None
) -> None:
    checks.activations(x, scale.device)
    checks.matrix(planes, scale, rows, x.shape[-1])
    if bias is not None:
        checks.bias(bias.contiguous(), rows, x.device)


def _check_rows(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> None:
    checks.matrix(planes, scale, rows, columns)
    if ids.device != scale.device:
        raise ValueError(f"ids: on {ids.device}, packed weights on {scale.device}: move one")


@torch.library.custom_op("bitstack::coded_linear", mutates_args=())
def _linear_op(
    x: Tensor, planes: list[Tensor], scale: Tensor, rows: int, bias: Tensor | None
) -> Tensor:
    _check_product(x, planes, scale, rows, bias)  # whole at every call, unlike the eager path
    return _linear(x, planes, scale, rows, bias)


@_linear_op.register_fake
def _(x: Tensor, planes: list[Tensor], scale: Tensor, rows: int, bias: Tensor | None) -> Tensor:
    _check_product(x, planes, scale, rows, bias)  # torch comes here too where one is on meta
    return x.new_empty(*x.shape[:-1], rows)


@torch.library.custom_op("bitstack::coded_linear_input_gradient", mutates_args=())
def _gradient_op(
    grad: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int
) -> Tensor:
    return _input_gradient(grad, planes, scale, rows, columns)


@_gradient_op.register_fake
def _(grad: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    checks.activations(grad, scale.device)
    checks.matrix(planes, scale, rows, columns)
    return grad.new_empty(*grad.shape[:-1], columns)


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, planes, scale, rows, bias = inputs
    ctx.save_for_backward(scale, *planes)
    ctx.rows, ctx.columns = rows, x.shape[-1]  # type: ignore[attr-defined]
    ctx.bias_dtype = None if bias is None else bias.dtype  # type: ignore[attr-defined]


def _backward(ctx, grad: Tensor) -> tuple:  # type: ignore[no-untyped-def]
    scale, *planes = ctx.saved_tensors
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.bitstack.coded_linear_input_gradient(
            grad.contiguous(), planes, scale, ctx.rows, ctx.columns
        )
    if ctx.bias_dtype is not None and ctx.needs_input_grad[4]:
        grad_bias = grad.reshape(-1, ctx.rows).sum(0).to(ctx.bias_dtype)
    return grad_x, [None] * len(planes), None, None, grad_bias


_linear_op.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("bitstack::rotate", mutates_args=())
def _rotate_op(x: Tensor, seed: int, back: bool) -> Tensor:
    return _rotate(x, seed, back)


@_rotate_op.register_fake
def _(x: Tensor, seed: int, back: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _rotate_setup(ctx, inputs: tuple, output: Tensor) -> None:  # type: ignore[no-untyped-def]
    _, ctx.seed, ctx.back = inputs


def _rotate_backward(ctx, grad: Tensor) -> tuple:  # type: ignore[no-untyped-def]
    return torch.ops.bitstack.rotate(grad, ctx.seed, not ctx.back), None, None


_rotate_op.register_autograd(_rotate_backward, setup_context=_rotate_setup)


@torch.library.custom_op("bitstack::coded_rows", mutates_args=())
def _rows_op(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    return _rows(ids, planes, scale, rows, columns)


@_rows_op.register_fake
def _(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    _check_rows(ids, planes, scale, rows, columns)
    return scale.new_empty(*ids.shape, columns, dtype=torch.float32)


@torch.library.custom_op("bitstack::dequantize", mutates_args=())
def _dequantize_op(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    return _dequantize(planes, scale, rows, columns)


@_dequantize_op.register_fake
def _(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    checks.matrix(planes, scale, rows, columns)
    return scale.new_empty(rows, columns, dtype=torch.float32)
