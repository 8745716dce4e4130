"""The product with a coded matrix, and its gradients by inputs, scales and the matrix itself.

Does not change codes or scales; see `tuning.tuned_stack`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bitstack.tuning.positions import lookup

UseGradient = Callable[[Tensor], None]  # takes a gradient of the shape of the matrix, [m, n]


def product(x: Tensor, y: Tensor, *, fast: bool) -> Tensor:
    """Returns `x @ y`.

    If `fast`, fp32 matrices are rounded to bf16 where the machine multiplies these at a multiple of
    the speed (sums stay fp32). That errs like codes of 8 bits: too much for codes of 8 bits.
    """
    if fast and x.dtype == torch.float32 and _multiplies_bf16(x.device.type):
        return (x.bfloat16() @ y.bfloat16()).float()
    return x @ y


@cache
def _multiplies_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def coded_matrix(code: Tensor, u: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Returns the matrix diag(u) T[code] diag(v), [m, n]."""
    return lookup(table, code).mul_(v).mul_(u.unsqueeze(1))


class CodedProduct(torch.autograd.Function):
    """`x` times (diag(u) T[code] diag(v))ᵀ, with gradients for x, u, v and T.

    The gradient by the table value of each weight, [m, n], goes to `use_gradient`. The matrix is
    rebuilt on the way back instead of kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, code: Tensor, u: Tensor, v: Tensor, table: Tensor,
        use_gradient: UseGradient | None, fast: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, code, u, v, table)
        ctx.use_gradient = use_gradient
        return product(x, coded_matrix(code, u, v, table).T, fast=fast)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, code, u, v, table = ctx.saved_tensors
        g = gradients[0]
        cells = lookup(table, code)
        # Gradients of one batch are noisier than any rounding.
        dx = product(g, cells * v * u.unsqueeze(1), fast=True)
        dw = product(g.flatten(0, -2).T, x.flatten(0, -2), fast=True)
        # W_rc = u_r T[code_rc] v_c, so each scale gathers dW times the other two factors.
        dw_cells = dw * cells
        du, dv = dw_cells @ v, dw_cells.T @ u
        dw = dw * v * u.unsqueeze(1)  # now the gradient by the table value of each weight
        dt = torch.bincount(code.flatten().int(), weights=dw.flatten(), minlength=len(table))
        if ctx.use_gradient:
            ctx.use_gradient(dw)
        return dx, None, du, dv, dt.to(table), None, None
