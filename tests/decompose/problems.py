"""Matrices and moments to decompose, as random layers have them."""

import torch
from torch import Tensor

from bitstack.decompose.problem import Problem, make_problem


def layer(rows: int = 48, columns: int = 40, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight [rows, columns] with uneven rows, and E[x xᵀ] of inputs that are correlated."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight *= torch.rand(rows, 1, generator=generator) + 0.2
    inputs = torch.randn(4 * columns, columns, generator=generator)
    inputs = inputs @ torch.randn(columns, columns, generator=generator)
    return weight, inputs.T @ inputs / len(inputs)


def problem(rows: int = 48, columns: int = 40, *, seed: int = 0) -> Problem:
    return make_problem(*layer(rows, columns, seed=seed), None)
