"""One level of a coded matrix in X-space: codes and the scale set that turns them into values.

`values = diag(u) T[code] diag(v)`. Everything is held as fp32 but rounded to fp16 where it will be
stored, so that what is built on a level is built on what a reader will see.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitstack.decompose.problem import Problem

_LARGEST = 65504.0  # of fp16
_SMALLEST = 6.2e-5  # smallest normal fp16


@dataclass(frozen=True)
class Level:
    """`code` uint8 [m, n] of `planes` bits, `u` [m], `v` [n], `table` [2^planes]."""

    code: Tensor
    u: Tensor
    v: Tensor
    table: Tensor
    planes: int

    def cells(self) -> Tensor:
        """T[code] [m, n]."""
        return self.table[self.code.int()]

    def values(self) -> Tensor:
        """The approximation of X, [m, n]."""
        return self.cells() * self.v * self.u.unsqueeze(1)

    def stored(self, problem: Problem) -> "Level":
        """As a reader will see it: balanced and rounded to fp16 in W-space."""
        u, v, table = self.numbers(problem)
        return replace(self, u=u.float(), v=v.float() * problem.scale, table=table.float())

    def numbers(self, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        """(u, v, T) as stored, fp16, in W-space: `v` divided by the problem's column scale.

        The free factors between the three are set so that T has a largest value of one and v a
        mean size of one: fp16 then holds any matrix whose rows fp16 could hold.
        """
        v = self.v / problem.scale
        height = self.table.abs().max().clamp_min(1e-30)
        width = v.abs().mean().clamp_min(1e-30)
        return _half(self.u * height * width), _half(v / width), _half(self.table / height)


def _half(x: Tensor) -> Tensor:
    x = torch.nan_to_num(x).clamp(-_LARGEST, _LARGEST)
    return torch.where(x.abs() < _SMALLEST / 1024, 0.0, x).half()


def first_scales(problem: Problem, *, seed: int) -> tuple[Tensor, Tensor]:
    """u [m] and v [n], both positive: the rank-1 fit of |X|, by a truncated SVD."""
    from bitstack.decompose.svd import truncated_svd

    left, size, right = truncated_svd(problem.x.abs(), 1, seed=seed)
    root = size[0].clamp_min(1e-20).sqrt()
    u, v = left[:, 0].abs() * root, right[0].abs() * root
    # A dead row or column has scale zero; a tiny one keeps divisions by it finite.
    return u.clamp_min(1e-6 * float(u.max()) + 1e-20), v.clamp_min(1e-6 * float(v.max()) + 1e-20)
