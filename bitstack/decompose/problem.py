"""What one matrix is approximated under: column weights from its inputs, row weights from the loss.

`W` is turned into `X = W diag(s)` with the moments normalised to a mean diagonal of one, so that
every later step sees the same scale whatever the model. Any second moment is taken: singular, with
dead channels, from fewer tokens than columns, or none (identity). All that is done with `X` is done
for a panel of rows at a time, so that an embedding needs little more memory than itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_PANEL = 1 << 20  # weights worked on at a time: temporaries take up to 100 bytes for each
_ALL = slice(None)


@dataclass(frozen=True)
class Problem:
    """Approximate X = `weight` diag(scale) [m, n] under `moment` [n, n] (mean diagonal 1) and row
    weights [m] (mean 1).

    The error of an approximation A is Σ_r rows_r (x − a)_r moment (x − a)_rᵀ. A `moment` that is
    diagonal is its diagonal alone, [n]. `scale` [n] turns X-space columns back into W's, `unit` is
    what one unit of `moment` is in E[x xᵀ].
    """

    weight: Tensor
    moment: Tensor
    rows: Tensor
    scale: Tensor
    unit: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def x(self, rows: slice = _ALL) -> Tensor:
        """Rows of X, fp32."""
        return self.weight[rows].float() * self.scale

    def panels(self) -> Iterator[slice]:
        """All rows, as many at a time as fit a panel."""
        m, n = self.shape
        step = max(1, _PANEL // n)
        yield from (slice(start, min(start + step, m)) for start in range(0, m, step))

    def damped(self, damping: float) -> Tensor:
        """The moment with `damping` times the identity added, fp32 [n, n]."""
        moment = self.moment.clone()
        diagonal(moment).add_(damping)
        return moment

    def row_errors(self, approximation: Callable[[slice], Tensor]) -> Tensor:
        """Squared error of each row under E[x xᵀ], fp32 [m]: the mean squared change of that
        output over tokens. `approximation` gives rows of what is there instead of X."""
        return torch.cat([self._errors(self.x(r) - approximation(r)) for r in self.panels()])

    def sizes(self) -> Tensor:
        """`row_errors` of nothing at all: the mean square of each output, fp32 [m]."""
        return torch.cat([self._errors(self.x(r)) for r in self.panels()])

    def _errors(self, error: Tensor) -> Tensor:
        return (times(error, self.moment) * error).sum(1).clamp_min(0) * self.unit


def times(x: Tensor, moment: Tensor) -> Tensor:
    """`x` [k, n] times a moment, whole [n, n] or its diagonal [n]."""
    return x * moment if moment.ndim == 1 else x @ moment


def diagonal(moment: Tensor) -> Tensor:
    """The diagonal [n] of a moment, as a view."""
    return moment if moment.ndim == 1 else moment.diagonal()


def make_problem(weight: Tensor, moment: Tensor | None, rows: Tensor | None) -> Problem:
    """Normalise `weight` [m, n] with E[x xᵀ] [n, n] and row weights [m] (None: identity, ones)."""
    if moment is None or not moment.diagonal().mean() > 0:
        moment = torch.ones(weight.shape[1], device=weight.device)
    moment = moment.float()
    scale = diagonal(moment).clamp_min(0).sqrt()
    scale = scale / scale.mean() + 1e-3
    scaled = (moment / scale).div_(scale if moment.ndim == 1 else scale.unsqueeze(1))
    unit = float(diagonal(scaled).mean())
    return Problem(weight, scaled.div_(unit), _row_weights(rows, weight), scale, unit)


def _row_weights(rows: Tensor | None, weight: Tensor) -> Tensor:
    ones = torch.ones(len(weight), device=weight.device)
    if rows is None or not rows.mean() > 0:
        return ones
    # A row that calibration never felt still matters a little to other text.
    return rows.float().to(weight.device) / float(rows.mean()) * 0.99 + 0.01
