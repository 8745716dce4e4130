"""Finds the weights of a matrix that are worth keeping as they are, beside its codes.

Codes of j bits leave a share D_j of what they are given, and one bit more for every weight leaves a
quarter of that. So a weight kept exactly, at 48 bits, pays where it takes out more of the squared
error than those 48 bits, given to the codes, would: where its square, under the weights of its row
and its column, is over 48 · ln 4 = 67 times the mean square of the weights left. That holds at
every level alike. SpQR (arXiv 2306.03078) keeps outliers by a threshold to be set; this one is
computed. Does not decide whether keeping them pays beside a rotation; see `decompose.form`.
"""

import math

import torch
from torch import Tensor

from bitstack.decompose.problem import Problem, diagonal

OUTLIER_BITS = 48  # of one outlier: a position of 32 bits and a value of 16
_WORTH = OUTLIER_BITS * math.log(4)  # times the mean square
_ROUNDS = 8  # without the outliers the mean is smaller, and more weights are outliers
_MOST = 0.01  # of all weights: beyond, the distribution is wide as a whole


def find_outliers(problem: Problem) -> Tensor:
    """Returns the positions row · n + column of the outliers of `problem`, rising, int64 [k].

    Args:
        problem: Without rotation: outliers are weights of the matrix as the model has it.
    """
    assert not problem.rotation
    limit, count = math.inf, -1
    for _ in range(_ROUNDS):
        total, above = _sums(problem, limit)
        if above == count or above > _MOST * problem.weight.numel():
            break
        kept, count = limit, above
        limit = min(limit, _WORTH * total / max(problem.weight.numel() - above, 1))
    return _positions(problem, kept)


def _squares(problem: Problem, rows: slice) -> Tensor:
    """The square of every weight under the weights of its row and its column."""
    columns = problem.row_weights[rows].unsqueeze(1) * diagonal(problem.moment)
    return problem.x(rows).square_().mul_(columns)


def _sums(problem: Problem, limit: float) -> tuple[float, int]:
    """Sum of the squares up to `limit`, and how many are above it."""
    total, above = 0.0, 0
    for rows in problem.panels():
        squares = _squares(problem, rows)
        outside = squares > limit
        above += int(outside.sum())
        total += float(squares.masked_fill_(outside, 0).sum())
    return total, above


def _positions(problem: Problem, limit: float) -> Tensor:
    if limit == math.inf:
        return torch.empty(0, dtype=torch.int64)
    parts = []
    for rows in problem.panels():
        at = (_squares(problem, rows) > limit).flatten().nonzero()[:, 0]
        parts.append(at.cpu() + rows.start * problem.shape[1])
    return torch.cat(parts)


def split_off(weight: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the values of the outliers fp16 [k], and the matrix [m, n] that is left to the codes.

    A value beyond the range of fp16 leaves its rest to the codes.
    """
    at = positions.to(weight.device)
    values = weight.flatten()[at].float().clamp(-65504, 65504).half()
    rest = weight.clone(memory_format=torch.contiguous_format)
    rest.view(-1)[at] -= values.to(weight.dtype)
    return values, rest
