"""States what one matrix is approximated under: column weights from its inputs, row weights from
the loss.

The second moment H = E[x xᵀ] of the inputs is the Hessian of the layer's squared error, up to a
factor of two, as in GPTQ (arXiv 2210.17323): an error e of one row changes its output by
E[(e x)²] = e H eᵀ. `W` is turned into `X = W diag(s)`, and H normalised to a mean diagonal of one,
so that every later step sees the same scale in any model. Any second moment is taken: singular,
with dead channels, from fewer tokens than columns, or none (identity). All work on `X` is done for
a panel of rows at a time, so that an embedding needs little more memory than itself. Does not
approximate anything; see `decompose.nested`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bitstack.kernels import rotate

_PANEL = 1 << 20  # weights worked on at a time: temporaries take up to 100 bytes for each
_ALL = slice(None)


@dataclass(frozen=True)
class Problem:
    """Approximate X = `weight` diag(scale) [m, n] under `moment` and `row_weights`.

    The error of an approximation A is Σ_r row_weights_r (x − a)_r moment (x − a)_rᵀ.
    """

    weight: Tensor  # W [m, n], in the dtype of the model
    moment: Tensor  # H of X's columns, mean diagonal 1: [n, n], or its diagonal [n] if that is all
    row_weights: Tensor  # [m], mean 1
    scale: Tensor  # s [n]; dividing a column of X by it gives the column of W
    unit: float  # what one unit of `moment` is in E[x xᵀ]
    rotation: int = 0  # seed of the rotation of W's inputs, and so of its rows; 0: none

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def x(self, rows: slice = _ALL) -> Tensor:
        """Rows of X, fp32."""
        return rotate(self.weight[rows].float(), self.rotation) * self.scale

    def panels(self) -> Iterator[slice]:
        """Yields all rows, as many at a time as fit a panel."""
        m, n = self.shape
        step = max(1, _PANEL // n)
        yield from (slice(start, min(start + step, m)) for start in range(0, m, step))

    def damped_hessian(self, damping: float) -> Tensor:
        """Returns `moment` + `damping` · I, fp32.

        GPTQ damps to keep H invertible. Here it also limits how far codes leave the cell of their
        weight to cancel one another's errors: a later plane can only move inside the cell.
        """
        moment = self.moment.clone()
        diagonal(moment).add_(damping)
        return moment

    def row_errors(self, approximation: Callable[[slice], Tensor]) -> Tensor:
        """Returns the mean squared change of each output over tokens, E[(e_r x)²], fp32 [m].

        `approximation` gives some rows of what stands in place of X.
        """
        return torch.cat([self._mean_squares(self.x(r) - approximation(r)) for r in self.panels()])

    def row_squares(self) -> Tensor:
        """Returns the mean square of each output itself, E[(w_r x)²], fp32 [m]."""
        return torch.cat([self._mean_squares(self.x(r)) for r in self.panels()])

    def _mean_squares(self, rows: Tensor) -> Tensor:
        """e H eᵀ of each of some rows, in the units of E[x xᵀ]."""
        return (times(rows, self.moment) * rows).sum(1).clamp_min(0) * self.unit


def times(x: Tensor, moment: Tensor) -> Tensor:
    """Returns `x` [k, n] times a second moment, which is whole [n, n] or its diagonal [n]."""
    return x * moment if moment.ndim == 1 else x @ moment


def diagonal(moment: Tensor) -> Tensor:
    """Returns the diagonal [n] of a second moment, as a view."""
    return moment if moment.ndim == 1 else moment.diagonal()


def make_problem(
    weight: Tensor, moment: Tensor | None, row_weights: Tensor | None, rotation: int = 0
) -> Problem:
    """Normalises `weight` [m, n] with E[x xᵀ] [n, n] and row weights [m] (None: identity, ones).

    With `rotation` Q, what is approximated is W Qᵀ under Q E[x xᵀ] Qᵀ.
    """
    if moment is None or not moment.diagonal().mean() > 0:
        moment = torch.ones(weight.shape[1], device=weight.device)
    moment = moment.float()
    if moment.ndim == 2:
        moment = rotate(rotate(moment, rotation).T.contiguous(), rotation)
    # s = sqrt(diag H): a column of X is as large as what it adds to the output. 1e-3 keeps the
    # divisions by s finite where an input is dead.
    scale = diagonal(moment).clamp_min(0).sqrt()
    scale = scale / scale.mean() + 1e-3
    # diag(1/s) H diag(1/s), so that x H xᵀ of X is that of W.
    scaled = (moment / scale).div_(scale if moment.ndim == 1 else scale.unsqueeze(1))
    unit = float(diagonal(scaled).mean())
    weights = _mean_one(row_weights, weight)
    return Problem(weight, scaled.div_(unit), weights, scale, unit, rotation)


def _mean_one(row_weights: Tensor | None, weight: Tensor) -> Tensor:
    ones = torch.ones(len(weight), device=weight.device)
    if row_weights is None or not row_weights.mean() > 0:
        return ones
    # A row without gradient in the calibration still matters a little to other text.
    return row_weights.float().to(weight.device) / float(row_weights.mean()) * 0.99 + 0.01
