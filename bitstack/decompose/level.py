"""One level of a coded matrix in X-space: codes and the scale set that turns them into values.

`values = diag(u) T[code] diag(v)`. Everything is held as fp32 but rounded to fp16 where it will be
stored, so that what is built on a level is built on what a reader will see.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitstack.decompose.problem import Problem

_LARGEST = 65504.0  # of fp16
_ALL = slice(None)
_STEPS = 10  # power iterations: the magnitudes of real weights need three
_SMALLEST = 6.2e-5  # smallest normal fp16


@dataclass(frozen=True)
class Level:
    """`code` uint8 [m, n], `u` [m], `v` [n], `table` [2^planes].

    The low `planes` bits of a code count here; levels above share the tensor for theirs.
    """

    code: Tensor
    u: Tensor
    v: Tensor
    table: Tensor
    planes: int

    def codes(self, rows: slice = _ALL) -> Tensor:
        """Rows of the codes, without the bits of levels above."""
        return self.code[rows] & (2**self.planes - 1)

    def cells(self, rows: slice = _ALL) -> Tensor:
        """Rows of T[code]."""
        return self.table[self.codes(rows).int()]

    def values(self, rows: slice = _ALL) -> Tensor:
        """Rows of the approximation of X."""
        return self.cells(rows).mul_(self.v).mul_(self.u[rows].unsqueeze(1))

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


def first_scales(problem: Problem) -> tuple[Tensor, Tensor]:
    """u [m] and v [n], both positive: the rank-1 fit of |X|, its first singular vectors.

    By power iteration: a matrix without negative entries has one dominant pair, which is positive.
    """
    v = torch.ones(problem.shape[1], device=problem.device)
    u = torch.empty(problem.shape[0], device=problem.device)
    for _ in range(_STEPS):
        v = v / v.norm().clamp_min(1e-30)
        new = torch.zeros_like(v)
        for rows in problem.panels():
            x = problem.x(rows).abs_()
            u[rows] = x @ v
            new += u[rows] @ x
        v = new
    size = v.norm().clamp_min(1e-20).sqrt()  # of AᵀA v, v of norm 1: the squared singular value
    u, v = u / size.sqrt(), v / v.norm().clamp_min(1e-30) * size.sqrt()
    # A dead row or column has scale zero; a tiny one keeps divisions by it finite.
    return u.clamp_min(1e-6 * float(u.max()) + 1e-20), v.clamp_min(1e-6 * float(v.max()) + 1e-20)


def shared(levels: list[Level]) -> list[Level]:
    """`levels` with the codes of the last, which hold those of all."""
    return [replace(level, code=levels[-1].code) for level in levels]
