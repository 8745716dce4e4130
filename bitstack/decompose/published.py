"""The published BitStack decomposition (arXiv 2410.23918), to the letter.

Block i: S = sign(R) with sign(0) = +1; the `rank` largest singular vectors of |R|, U sqrt(Σ) and
sqrt(Σ) Vᵀ rounded to fp16; R ← R − S ∘ (A B). Signs are packed eight a byte, row-major, most
significant bit first, +1 as 1. Does not scale columns; see `compression.column_scaling`.
"""

import torch
from torch import Tensor

from bitstack.container.blocks import StackSpec
from bitstack.decompose.problem import make_space, mean_one
from bitstack.decompose.result import Decomposed
from bitstack.decompose.svd import full_svd, truncated_svd
from bitstack.kernels import packing


def decompose_signs(
    weight: Tensor,
    *,
    blocks: int,
    rank: int,
    full: bool = True,
    seed: int = 0,
    moment: Tensor | None = None,
) -> Decomposed:
    """Decomposes `weight` [m, n] into `blocks` blocks of `rank` (at most the smaller side).

    Args:
        full: whether every SVD is the full one; otherwise truncated, with random numbers of `seed`.
        moment: E[x xᵀ] [n, n], used to report errors only, never to choose anything.
    """
    m, n = weight.shape
    rank = min(rank, m, n)
    problem = make_space(n, moment, 0, weight.device).problem(weight, mean_one(None, weight))
    residual = weight.float().clone()
    tensors: dict[str, Tensor] = {}
    errors = []
    for i in range(1, blocks + 1):
        magnitude = residual.abs()
        u, s, vh = (
            full_svd(magnitude, rank) if full else truncated_svd(magnitude, rank, seed=seed + i)
        )
        root = s.clamp_min(0).sqrt()
        left, right = (u * root).half(), (root.unsqueeze(1) * vh).half()
        positive = residual >= 0
        product = left.float() @ right.float()
        residual -= torch.where(positive, product, -product)
        tensors[f"plane_{i}"] = packing.pack(positive, order="big")
        tensors[f"left_{i}"], tensors[f"right_{i}"] = left.contiguous(), right.contiguous()
        error = residual * problem.space.scale  # in X-space, as the problem counts it
        errors.append(problem.mean_squares(error, problem.times_moment(error)))
    spec = StackSpec("signs", m, n, blocks, rank)
    return Decomposed(spec, tensors, torch.stack(errors), float(problem.row_squares().sum()))
