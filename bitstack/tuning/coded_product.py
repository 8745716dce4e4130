"""The product with a coded matrix, and its gradients by inputs, scales and the matrix itself.

Does not change codes or scales; see `tuning.tuned_stack`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bitstack.kernels import codes
from bitstack.kernels.learning import spread
from bitstack.machine.device import product_dtype

UseGradient = Callable[[Tensor], None]  # takes a gradient of the shape of the matrix, [m, n]


def coarse_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """Returns the dtype of products that need not all digits of fp32: bf16 where that is faster.

    It errs like codes of 8 bits: too much for codes of 8 bits.
    """
    return product_dtype(device) if dtype == torch.float32 else dtype


def coded_matrix(
    code: Tensor, u: Tensor, v: Tensor, table: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Returns the matrix diag(u) T[code] diag(v), [m, n]; of `code`, the bits that T needs."""
    if table.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16):
        return codes.values(code, len(table).bit_length() - 1, table, u, v, dtype)
    cells = table[(code & (len(table) - 1)).int()]
    return (cells * v * u.unsqueeze(1)).to(dtype)


class CodedProduct(torch.autograd.Function):
    """`x` times (diag(u) T[code] diag(v))ᵀ, with gradients for x, u, v and T.

    The gradient by the table value of each weight, [m, n], goes to `use_gradient`. The matrix is
    rebuilt on the way back instead of kept. `x` in bf16 gives results in bf16, though scales are
    fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, code: Tensor, u: Tensor, v: Tensor, table: Tensor,
        use_gradient: UseGradient | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, code, u, v, table)
        ctx.use_gradient = use_gradient
        return x @ coded_matrix(code, u, v, table, x.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, code, u, v, table = ctx.saved_tensors
        # Gradients of one batch are noisier than any rounding.
        dtype = coarse_dtype(x.dtype, x.device.type)
        g = gradients[0].to(dtype)
        dx = (g @ coded_matrix(code, u, v, table, dtype)).to(x.dtype)
        dw = g.flatten(0, -2).T @ x.flatten(0, -2).to(dtype)
        found = spread(code, table, u, v, dw.to(table.dtype))
        if ctx.use_gradient:
            ctx.use_gradient(found.cells)
        return dx, None, found.u, found.v, found.table, None
