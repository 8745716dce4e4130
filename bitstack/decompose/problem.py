"""States what one matrix is approximated under: column weights from its inputs, row weights from
the loss.

The second moment H = E[x xᵀ] of the inputs is the Hessian of the layer's squared error, up to a
factor of two, as in GPTQ (arXiv 2210.17323): an error e of one row changes its output by
E[(e x)²] = e H eᵀ. `W` is turned into `X = W Qᵀ diag(s)`, and H normalised to a mean diagonal of
one, so that every later step sees the same scale in any model. Any second moment is taken:
singular, with dead channels, from fewer tokens than columns, or none (identity). Does not
approximate anything; see `decompose.nested`.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bitstack.kernels import rotate
from bitstack.machine.device import product_dtype


@dataclass(frozen=True)
class Space:
    """The coordinates in which all rows of one matrix are approximated."""

    moment: Tensor  # M = H of X's columns, mean diagonal 1: [n, n], or its diagonal [n] if all else
    # is zero
    scale: Tensor  # s [n]; dividing a column of X by it gives the column of W Qᵀ
    unit: float  # what one unit of `moment` is in E[x xᵀ]
    rotation: int = 0  # seed of Q, the rotation of W's inputs, and so of its rows; 0: none

    @cached_property
    def rough_moment(self) -> Tensor:
        """M in the dtype of fast products: bf16 where the processor multiplies it faster.

        What a search or a refit has moved is multiplied by it. Both roundings, of 2⁻⁹, are of the
        moves; products that last are in fp32.
        """
        return self.moment.to(product_dtype(self.moment.device.type))

    def problem(self, weight: Tensor, row_weights: Tensor) -> "Problem":
        """Returns the problem of approximating some rows of W [m, n] with weights [m]."""
        return Problem(self, rotate(weight.float(), self.rotation) * self.scale, row_weights)


@dataclass(frozen=True)
class Problem:
    """Approximate `x` under the second moment M of its columns and `row_weights`.

    The error of an approximation A is Σ_r row_weights_r (x − a)_r M (x − a)_rᵀ.
    """

    space: Space
    x: Tensor  # X fp32 [m, n]
    row_weights: Tensor  # fp32 [m]

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[0], self.x.shape[1]

    @property
    def device(self) -> torch.device:
        return self.x.device

    @cached_property
    def image(self) -> Tensor:
        """X M, fp32 [m, n]."""
        return self.times_moment(self.x)

    @cached_property
    def diagonal(self) -> Tensor:
        """The diagonal of M, [n]."""
        return diagonal(self.space.moment).contiguous()

    def times_moment(self, x: Tensor) -> Tensor:
        """Returns `x` [k, n] times M."""
        moment = self.space.moment
        return x * moment if moment.ndim == 1 else x @ moment

    def times_rough_moment(self, x: Tensor) -> Tensor:
        """Returns `x` [k, n], something that was moved, times `rough_moment`."""
        moment = self.space.rough_moment
        if moment.ndim == 1 or moment.dtype == x.dtype:
            return self.times_moment(x)
        return (x.to(moment.dtype) @ moment).float()

    def row_squares(self) -> Tensor:
        """Returns the mean square over tokens of each output, E[(w_r x)²], fp32 [m]."""
        return self.mean_squares(self.x, self.image)

    def mean_squares(self, rows: Tensor, image: Tensor) -> Tensor:
        """e M eᵀ of each of the `rows` e, whose `image` is e M, in the units of E[x xᵀ]: [m]."""
        return (image * rows).sum(1).clamp_min(0) * self.space.unit


def diagonal(moment: Tensor) -> Tensor:
    """Returns the diagonal [n] of a second moment, as a view."""
    return moment if moment.ndim == 1 else moment.diagonal()


def make_space(
    columns: int, moment: Tensor | None, rotation: int = 0, device: torch.device | str = "cpu"
) -> Space:
    """Normalises E[x xᵀ] [n, n], or None for the identity.

    With `rotation` Q, what is approximated is W Qᵀ under Q E[x xᵀ] Qᵀ.
    """
    if moment is None or not moment.diagonal().mean() > 0:
        moment = torch.ones(columns, device=device)
    moment = moment.float()
    if moment.ndim == 2 and rotation:
        moment = rotate(rotate(moment, rotation).T.contiguous(), rotation)
    # s = sqrt(diag H): a column of X is as large as what it adds to the output. 1e-3 keeps the
    # divisions by s finite where an input is dead.
    scale = diagonal(moment).clamp_min(0).sqrt()
    scale = scale / scale.mean() + 1e-3
    # diag(1/s) H diag(1/s), so that x H xᵀ of X is that of W.
    scaled = (moment / scale).div_(scale if moment.ndim == 1 else scale.unsqueeze(1))
    unit = float(diagonal(scaled).mean())
    return Space(scaled.div_(unit), scale, unit, rotation)


def mean_one(row_weights: Tensor | None, weight: Tensor) -> Tensor:
    """Returns the weights [m] of the rows of `weight` with a mean of one; None: ones."""
    ones = torch.ones(len(weight), device=weight.device)
    if row_weights is None or not row_weights.mean() > 0:
        return ones
    # A row without gradient in the calibration still matters a little to other text.
    return row_weights.float().to(weight.device) / float(row_weights.mean()) * 0.99 + 0.01
