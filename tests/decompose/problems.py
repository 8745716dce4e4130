"""Matrices and moments to decompose, as random layers have them."""

import torch
from torch import Tensor

from bitstack.decompose.problem import Problem, make_space, mean_one


def layer(rows: int = 48, columns: int = 40, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight [rows, columns] with uneven rows, and E[x xᵀ] of inputs that are correlated."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight *= torch.rand(rows, 1, generator=generator) + 0.2
    inputs = torch.randn(4 * columns, columns, generator=generator)
    inputs = inputs @ torch.randn(columns, columns, generator=generator)
    return weight, inputs.T @ inputs / len(inputs)


def problem(rows: int = 48, columns: int = 40, *, seed: int = 0) -> Problem:
    return stated(*layer(rows, columns, seed=seed))


def stated(
    weight: Tensor, moment: Tensor | None = None, row_weights: Tensor | None = None
) -> Problem:
    """The problem of all rows of `weight`, not rotated."""
    space = make_space(weight.shape[1], moment)
    return space.problem(weight, mean_one(row_weights, weight))
