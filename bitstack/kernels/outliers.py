"""Adds the weights that a matrix keeps as they are, beside its codes: a few, with their positions.

A few weights of a language model, times the inputs they meet, carry most of what a matrix does, and
no table of few values reaches them (SpQR, arXiv 2306.03078, keeps them apart for the same reason).
They are a sparse part of the matrix, in the coordinates of the unrotated inputs. This is the
definition, in torch, for every device and with gradients; the C++ products add the same
(`cpu/outliers.inl`). Does not choose the weights; see `decompose.outliers`.
"""

import torch
from torch import Tensor

from bitstack.kernels import checks, dispatch


def add_products(y: Tensor, x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Returns `y` [..., m] plus `x` [..., n] times the transposed outliers, in the dtype of `y`.

    Args:
        positions: int [k], row · n + column, rising.
        values: fp16 [k].

    Raises:
        ValueError: A tensor is not of that dtype, shape and device.
        IndexError: A position is outside of the matrix, on the CPU.
    """
    columns = x.shape[-1]
    checks.outliers(positions, values, columns, x.device)
    _check_places(positions, y.shape[-1] * columns)
    rows, at = positions // columns, positions % columns
    parts = x[..., at.long()].float() * values.float()
    return y.float().index_add(-1, rows.long(), parts).to(y.dtype)


def add_to(matrix: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Adds the outliers to `matrix` fp32 [m, n], contiguous, in place; returns it.

    Raises:
        ValueError: A tensor is not of that dtype, shape and device.
        IndexError: A position is outside of the matrix, on the CPU.
    """
    checks.tensor("matrix", matrix, (torch.float32,))
    checks.outliers(positions, values, matrix.shape[-1], matrix.device)
    _check_places(positions, matrix.numel())
    matrix.view(-1).index_add_(0, positions.long(), values.float())
    return matrix


def _check_places(positions: Tensor, places: int) -> None:
    """Refuses positions outside of a matrix of `places` weights, where looking does not wait."""
    if positions.is_cpu and positions.numel() and dispatch.is_eager(positions):
        least, most = torch.aminmax(positions)
        if least < 0 or most >= places:
            raise IndexError(f"positions of outliers: one is outside 0 .. {places - 1}")


@torch.library.custom_op("bitstack::outlier_rows", mutates_args=())
def rows(ids: Tensor, positions: Tensor, values: Tensor, columns: int) -> Tensor:
    """Returns the outliers of rows `ids` (int64, any shape): fp32 [*ids.shape, columns].

    Raises:
        TypeError, ValueError: A tensor is not of that dtype, shape and device, or positions do not
            rise, on the CPU.
        IndexError: An id is negative, on the CPU.
    """
    checks.sizes(columns=columns)
    checks.outliers(positions, values, columns, ids.device)
    checks.ids(ids)
    looked = positions.is_cpu and positions.numel()
    if looked and (positions[0] < 0 or (positions.diff() <= 0).any()):
        raise ValueError("positions of outliers: do not rise from 0 on: sort them and values")
    flat = ids.reshape(-1).to(positions.dtype)
    first = torch.searchsorted(positions, flat * columns)
    counts = torch.searchsorted(positions, (flat + 1) * columns) - first
    # Entry i of `which` is the row that outlier i goes to; `source` is where that outlier stands.
    which = torch.repeat_interleave(counts)
    ends = counts.cumsum(0)
    source = torch.arange(len(which), device=ids.device) + (first - ends + counts)[which]
    out = torch.zeros(len(flat), columns, device=ids.device)
    out[which, (positions[source] % columns).long()] = values[source].float()
    return out.view(*ids.shape, columns)


@rows.register_fake
def _(ids: Tensor, positions: Tensor, values: Tensor, columns: int) -> Tensor:
    checks.outliers(positions, values, columns, ids.device)
    return values.new_empty(*ids.shape, columns, dtype=torch.float32)
