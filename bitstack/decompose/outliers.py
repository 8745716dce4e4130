"""Finds the weights of a matrix that are worth keeping as they are, beside its codes.

Codes of j bits leave a share D_j of what they are given, and one bit more for every weight leaves a
quarter of that. So a weight kept exactly, at 48 bits, pays where it takes out more of the squared
error than those 48 bits, given to the codes, would: where its square, under the weights of its row
and its column, is over 48 · ln 4 = 67 times the mean square of the weights left. That holds at
every level alike. SpQR (arXiv 2306.03078) keeps outliers by a threshold to be set; this one is
computed. Does not decide whether keeping them pays beside a rotation; see `decompose.form`.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

OUTLIER_BITS = 48  # of one outlier: a position of 32 bits and a value of 16
_WORTH = OUTLIER_BITS * math.log(4)  # times the mean square
_ROUNDS = 8  # without the outliers the mean is smaller, and more weights are outliers
_PANEL = 1 << 20  # weights looked at together
_MOST = 0.01  # of all weights: beyond, the distribution is wide as a whole


def find_outliers(weight: Tensor, squares: Tensor | None, row_weights: Tensor) -> Tensor:
    """Returns the positions row · n + column of the outliers, rising, int64 [k].

    Args:
        weight: W [m, n].
        squares: E[x²] of every column [n]; None for ones.
        row_weights: [m].
    """
    columns = torch.ones_like(weight[0], dtype=torch.float32) if squares is None else squares
    limit, count = math.inf, -1
    for _ in range(_ROUNDS):
        total, above = 0.0, 0
        for _, shares in _shares(weight, columns, row_weights):
            outside = shares > limit
            above += int(outside.sum())
            total += float(shares.masked_fill_(outside, 0).sum())
        if above == count or above > _MOST * weight.numel():
            break
        kept, count = limit, above
        limit = min(limit, _WORTH * total / max(weight.numel() - above, 1))
    if kept == math.inf:
        return torch.empty(0, dtype=torch.int64)
    parts = []
    for start, shares in _shares(weight, columns, row_weights):
        at = (shares > kept).flatten().nonzero()[:, 0]
        parts.append(at.cpu() + start * weight.shape[1])
    return torch.cat(parts)


def _shares(weight: Tensor, columns: Tensor, row_weights: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields some rows at a time: the first, and the squares under the weights of rows and columns.

    A dead column counts a millionth of the mean.
    """
    columns = columns.float() + 1e-6 * columns.float().mean()
    step = max(1, _PANEL // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        yield start, weight[rows].float().square().mul_(columns).mul_(row_weights[rows, None])


def split_off(weight: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the values of the outliers fp16 [k], and the matrix [m, n] that is left to the codes.

    A value beyond the range of fp16 leaves its rest to the codes.
    """
    at = positions.to(weight.device)
    values = weight.flatten()[at].float().clamp(-65504, 65504).half()
    rest = weight.clone(memory_format=torch.contiguous_format)
    rest.view(-1)[at] -= values.to(weight.dtype)
    return values, rest
