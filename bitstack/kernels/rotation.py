"""Rotates the inputs of a matrix at random, so that a few large weights become many small ones.

A table of few values cannot hold weights fifty times the usual size. Rotated, W Qᵀ has hardly any
(incoherence processing: QuIP#, arXiv 2402.04396; QuaRot, arXiv 2404.00456), and W x = (W Qᵀ)(Q x).
Q is made of random signs and Hadamard transforms, so it costs n log n and takes no memory. This is
the definition, in torch, for every device; the C++ kernels compute the same (`cpu/rotate.inl`).

With `size` the largest power of two in n, Q multiplies by signs and transforms the first `size`
numbers; where n is no power of two it then multiplies by other signs and transforms the last
`size`. Does not choose which matrices are rotated; see `decompose`.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from bitstack.kernels import checks

_GOLDEN = 0x9E3779B97F4A7C15


@cache
def signs(columns: int, seed: int) -> Tensor:
    """Returns the two rows of signs of a rotation, int8 [2, columns], each 1 or -1.

    The lowest bits of splitmix64 started at `seed`: the same on every machine, in every version.

    Raises:
        TypeError: A number is not whole.
        ValueError: `seed` is not 0 to 2^63 - 1, or there are no columns.
    """
    checks.whole(seed=seed)
    checks.sizes(columns=columns)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: {seed} is not 0 to 2^63 - 1")
    with np.errstate(over="ignore"):
        steps = np.arange(1, 2 * columns + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        z = steps + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    bits = (z & np.uint64(1)).astype(np.int8)
    return torch.from_numpy(2 * bits - 1).view(2, columns)


def rotate(x: Tensor, seed: int, *, back: bool = False) -> Tensor:
    """Rotates the last dimension of `x`, by torch alone, with gradients.

    Args:
        x: Floating point [..., n], any n.
        seed: Which rotation; see `signs`.
        back: Multiply with the transpose of Q, which is its inverse.

    Returns:
        Q x (or Qᵀ x) for every vector of `x`, computed in fp32, in the shape and dtype of `x`.

    Raises:
        UserError, ValueError: `x` is not of floating point, or has no columns.
    """
    checks.activations(x, x.device)
    columns = x.shape[-1]
    size = 1 << (columns.bit_length() - 1)
    starts = [0, columns - size] if size < columns else [0]
    steps = list(zip(starts, _float_signs(columns, seed, x.device), strict=False))
    y = x.float()
    for start, flips in reversed(steps) if back else steps:
        y = y if back else y * flips
        end = start + size
        y = torch.cat([y[..., :start], _hadamard(y[..., start:end]), y[..., end:]], -1)
        y = y * flips if back else y
    return y.to(x.dtype)


def _hadamard(x: Tensor) -> Tensor:
    """The orthonormal Hadamard transform of the last dimension, a power of two.

    H of a · b numbers is the Kronecker product of H_a and H_b: two small matrix products.
    """
    power = x.shape[-1].bit_length() - 1
    a, b = 1 << (power // 2), 1 << (power - power // 2)
    left, right = _matrix(a, x.device), _matrix(b, x.device)
    y = left @ x.reshape(*x.shape[:-1], a, b) @ right
    return y.reshape(x.shape)


@cache
def _float_signs(columns: int, seed: int, device: torch.device) -> Tensor:
    return signs(columns, seed).to(device, torch.float32)


@cache
def _matrix(size: int, device: torch.device) -> Tensor:
    """The orthonormal Hadamard matrix in Sylvester's order, fp32 [size, size]."""
    matrix = torch.ones(1, 1)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    while len(matrix) < size:
        matrix = torch.kron(pair, matrix)
    return (matrix / size**0.5).to(device)
