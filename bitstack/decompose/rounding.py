"""Measures the simplest quantiser: rounding to nearest in groups of 64 weights of a row.

It takes the range of each group in equal steps. A run without text minimises the same squared
error, and compares itself with it (see `compression.against_rounding`). Does not decompose
anything; see `decompose.nested`.
"""

import torch
from torch import Tensor

GROUP = 64  # weights with a range of their own
_CHUNK = 1 << 22  # weights rounded at a time


def rounding_bits(rows: int, columns: int, bits: int) -> float:
    """Bits of a weight: its code, and its share of a scale in fp16 and a zero point a group."""
    groups = rows * -(-columns // GROUP)
    return bits + groups * (16 + bits) / (rows * columns)


def rounding_error(weight: Tensor, bits: int) -> float:
    """Squared error, relative to `weight` [m, n], of rounding to `bits` bits in groups of a row."""
    error = size = 0.0
    for rows in weight.split(max(1, _CHUNK // weight.shape[1])):
        error += float((rounded(rows, bits) - rows).square().sum(dtype=torch.float64))
        size += float(rows.float().square().sum(dtype=torch.float64))
    return error / max(size, 1e-30)


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Returns `weight` [m, n], each group of a row rounded to `bits` bits, fp32."""
    groups = weight.float().split(GROUP, dim=1)
    return torch.cat([_round_group(group, bits) for group in groups], dim=1)


def _round_group(group: Tensor, bits: int) -> Tensor:
    low, high = group.amin(1, keepdim=True).clamp_max(0), group.amax(1, keepdim=True).clamp_min(0)
    step = ((high - low) / (2**bits - 1)).half().float().clamp_min(1e-30)
    zero = (-low / step).round()
    return ((group / step + zero).round().clamp(0, 2**bits - 1) - zero) * step
