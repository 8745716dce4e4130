"""Adds the products with outliers, and on the way back their gradient by the inputs.

The compiled product adds both, the second with the outliers of the transposed matrix. Outliers do
not learn. Does not know how a matrix is coded; see `tuning.coded_product`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitstack.kernels import arguments, dispatch, native, outliers
from bitstack.kernels.arguments import Kept


class TwoWays(NamedTuple):
    """The outliers of a matrix and of the transposed one."""

    matrix: Kept
    transposed: Kept


def two_ways(positions: Tensor, values: Tensor, rows: int, columns: int) -> TwoWays:
    """Returns the outliers of a matrix [rows, columns] in both orders; see `kernels.outliers`."""
    places = positions.long()
    turned, order = (places % columns * rows + places // columns).sort()
    return TwoWays((positions, values), (turned.to(positions.dtype), values[order]))


class OutlierProduct(torch.autograd.Function):
    """`y` [..., m], changed in place, plus `x` [..., n] times the transposed outliers."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, kept: TwoWays) -> Tensor:
        ctx.transposed, ctx.columns = kept.transposed, x.shape[-1]
        ctx.mark_dirty(y)
        return _add(y, x, kept.matrix)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g = gradients[0]
        dx = _add(g.new_zeros(*g.shape[:-1], ctx.columns), g, ctx.transposed)
        return g, dx, None


def _add(y: Tensor, x: Tensor, kept: Kept) -> Tensor:
    variant = dispatch.cpu_variant() if x.is_cpu else None
    if variant is not None and y.dtype == x.dtype and arguments.supports(x.dtype):
        native.add_outliers(variant, y, x.contiguous(), kept)
        return y
    return y.copy_(outliers.add_products(y, x, *kept))
