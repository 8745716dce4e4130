"""Makes the coded product torch operators: one node each for torch.compile, and with gradients.

Weights are constants: gradients flow to activations and to the bias. `kernels.ops` calls the
operators by `torch.ops.bitstack`, and does without them where it can. Does not compute; see
`kernels.eager`.
"""

import torch
from torch import Tensor

from bitstack.kernels import checks, eager


def _check_product(
    x: Tensor, planes: list[Tensor], scale: Tensor, rows: int, bias: Tensor | None
) -> None:
    checks.activations(x, scale.device)
    checks.matrix(planes, scale, rows, x.shape[-1])
    if bias is not None:
        checks.bias(bias.contiguous(), rows, x.device)


@torch.library.custom_op("bitstack::coded_linear", mutates_args=())
def _linear_op(
    x: Tensor, planes: list[Tensor], scale: Tensor, rows: int, bias: Tensor | None
) -> Tensor:
    _check_product(x, planes, scale, rows, bias)  # whole at every call, unlike the eager path
    return eager.coded_linear(x, planes, scale, rows, bias)


@_linear_op.register_fake
def _(x: Tensor, planes: list[Tensor], scale: Tensor, rows: int, bias: Tensor | None) -> Tensor:
    _check_product(x, planes, scale, rows, bias)  # torch comes here too where one is on meta
    return x.new_empty(*x.shape[:-1], rows)


@torch.library.custom_op("bitstack::coded_linear_input_gradient", mutates_args=())
def _gradient_op(
    grad: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int
) -> Tensor:
    return eager.input_gradient(grad, planes, scale, rows, columns)


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
    return eager.rotate(x, seed, back)


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
    return eager.coded_rows(ids, planes, scale, rows, columns)


@_rows_op.register_fake
def _(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    eager.check_rows(ids, planes, scale, rows, columns)
    return scale.new_empty(*ids.shape, columns, dtype=torch.float32)


@torch.library.custom_op("bitstack::dequantize", mutates_args=())
def _dequantize_op(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    return eager.dequantize(planes, scale, rows, columns)


@_dequantize_op.register_fake
def _(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    checks.matrix(planes, scale, rows, columns)
    return scale.new_empty(rows, columns, dtype=torch.float32)
