"""Decides whether the inputs of a matrix are rotated: by trial, on some of its rows.

Rotation spreads large weights, which a table of few values cannot reach; it also spreads what the
second moment says of single columns, which scales and search live on. Which counts more is seen
from a quick decomposition of both, at equal bytes. Does not rotate; see `kernels.rotation`.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from bitstack.decompose.nested import Plan, decompose_codes

ROTATION = 1  # the seed of all rotations; matrices that share an input share its rotation
_ROWS = 256  # of the trial
_LEVELS = 4  # of the trial
_MIN_GAIN = 0.02  # of the relative error, below which the plain matrix is kept


def rotation_pays(
    weight: Tensor, plan: Plan, moment: Tensor | None, row_weights: Tensor | None
) -> bool:
    """Tells whether rotated inputs give a smaller error: the geometric mean over the levels.

    Args:
        weight: W [m, n].
        plan: The plan of the full decomposition. The trial neither searches nor refits against the
            second moment, which takes most of the time, but measures errors under it.
        moment: E[x xᵀ] [n, n], or None.
        row_weights: E[g²] [m], or None.
    """
    rows = _trial_rows(weight)
    weights = None if row_weights is None else row_weights[rows.to(row_weights.device)]
    levels = min(_LEVELS, plan.blocks)
    quick = replace(
        plan, blocks=levels, ends=(), joint_planes=(1,), refit_rounds=0, search_sweeps=0
    )
    logs = []
    for seed in (0, ROTATION):
        done = decompose_codes(
            weight[rows], quick, moment=moment, row_weights=weights, rotation=seed
        )
        logs.append(sum(math.log(max(e, 1e-12)) for e in done.relative_errors) / levels)
    return logs[1] < logs[0] + math.log1p(-_MIN_GAIN)


def _trial_rows(weight: Tensor) -> Tensor:
    """Rows at equal distances, and as many with the largest weights: outliers lie in few rows."""
    m = len(weight)
    if m <= 2 * _ROWS:
        return torch.arange(m, device=weight.device)
    even = torch.arange(_ROWS, device=weight.device) * m // _ROWS
    largest = weight.abs().amax(1).topk(_ROWS).indices
    return torch.cat([even, largest]).unique()
