"""What one matrix is approximated under: column weights from its inputs, row weights from the loss.

`W` is turned into `X = W diag(s)` with the moments normalised to a mean diagonal of one, so that
every later step sees the same scale whatever the model. Any second moment is taken: singular, with
dead channels, from fewer tokens than columns, or none (identity).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Approximate `x` [m, n] under `moment` [n, n] (mean diagonal 1) and row weights [m] (mean 1).

    The error of an approximation A is Σ_r rows_r (x − a)_r moment (x − a)_rᵀ. `scale` [n] turns
    X-space columns back into W's: W = x / scale. `unit` is what one unit of `moment` is in E[x xᵀ].
    """

    x: Tensor
    moment: Tensor
    rows: Tensor
    scale: Tensor
    unit: float

    def damped(self, damping: float) -> Tensor:
        """The moment with `damping` times the identity added, fp32 [n, n]."""
        eye = torch.eye(len(self.scale), device=self.x.device)
        return self.moment + damping * eye

    def row_errors(self, approximation: Tensor) -> Tensor:
        """Squared error of each row under E[x xᵀ], fp32 [m]: the mean squared change of that
        output over tokens."""
        error = self.x - approximation
        return ((error @ self.moment) * error).sum(1).clamp_min(0) * self.unit


def make_problem(weight: Tensor, moment: Tensor | None, rows: Tensor | None) -> Problem:
    """Normalise `weight` [m, n] with E[x xᵀ] [n, n] and row weights [m] (None: identity, ones)."""
    weight = weight.float()
    if moment is None or not moment.diagonal().mean() > 0:
        moment = torch.eye(weight.shape[1], device=weight.device)
    moment = moment.float()
    scale = moment.diagonal().clamp_min(0).sqrt()
    scale = scale / scale.mean() + 1e-3
    scaled = moment / scale / scale.unsqueeze(1)
    unit = float(scaled.diagonal().mean())
    return Problem(weight * scale, scaled / unit, _row_weights(rows, weight), scale, unit)


def _row_weights(rows: Tensor | None, weight: Tensor) -> Tensor:
    ones = torch.ones(len(weight), device=weight.device)
    if rows is None or not rows.mean() > 0:
        return ones
    # A row that calibration never felt still matters a little to other text.
    return rows.float().to(weight.device) / float(rows.mean()) * 0.99 + 0.01
