"""One level of a coded matrix in X-space: codes and the scale set that turns them into values.

`values = diag(u) T[code] diag(v)`. Everything is held as fp32 but rounded to fp16 where it will be
stored, so that what is built on a level is built on what a reader will see. Does not fit anything;
see `decompose.refit` and `decompose.search`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitstack.decompose.problem import Problem

_LARGEST = 65504.0  # largest fp16
_SMALLEST = 6.2e-5  # smallest normal fp16
_ALL = slice(None)
_POWER_STEPS = 10  # power iterations: the magnitudes of real weights need three


@dataclass(frozen=True)
class Level:
    """Codes of `planes` bits, and their scale set.

    The levels of one chain may share the tensor `code`: a level reads its low `planes` bits, the
    levels above also the next ones.
    """

    code: Tensor  # uint8 [m, n]
    u: Tensor  # [m], scale of every row
    v: Tensor  # [n], scale of every column
    table: Tensor  # T [2^planes], value of every code
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

    def as_stored(self, problem: Problem) -> "Level":
        """Returns the level as a reader will see it: balanced and rounded to fp16 in W-space."""
        u, v, table = self.stored_scales(problem)
        return replace(self, u=u.float(), v=v.float() * problem.scale, table=table.float())

    def stored_scales(self, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (u, v, T) as stored, fp16, in W-space: `v` divided by the problem's column scale.

        A factor can move freely between the three. It is set so that T has a largest value of one
        and v a mean size of one: fp16 then holds any matrix whose rows fp16 could hold.
        """
        v = self.v / problem.scale
        height = self.table.abs().max().clamp_min(1e-30)
        width = v.abs().mean().clamp_min(1e-30)
        return _to_fp16(self.u * height * width), _to_fp16(v / width), _to_fp16(self.table / height)


def _to_fp16(x: Tensor) -> Tensor:
    """Rounds to finite fp16; what is smaller than any fp16 number becomes zero."""
    x = torch.nan_to_num(x).clamp(-_LARGEST, _LARGEST)
    return torch.where(x.abs() < _SMALLEST / 1024, 0.0, x).half()


def first_scales(problem: Problem) -> tuple[Tensor, Tensor]:
    """Returns u [m] and v [n], both positive: the rank-1 fit of |X|, its first singular vectors.

    By power iteration on |X|ᵀ|X|. A matrix without negative entries has one dominant pair of
    singular vectors, and that pair is positive (Perron-Frobenius).
    """
    v = torch.ones(problem.shape[1], device=problem.device)
    u = torch.empty(problem.shape[0], device=problem.device)
    for _ in range(_POWER_STEPS):
        v = v / v.norm().clamp_min(1e-30)
        new = torch.zeros_like(v)
        for rows in problem.panels():
            x = problem.x(rows).abs_()
            u[rows] = x @ v
            new += u[rows] @ x
        v = new
    # Now |v| is the squared singular value σ², and |u| is σ: both are set to norm sqrt(σ).
    sigma = v.norm().clamp_min(1e-20).sqrt()
    u, v = u / sigma.sqrt(), v / v.norm().clamp_min(1e-30) * sigma.sqrt()
    # A dead row or column has scale zero; a tiny one keeps divisions by it finite.
    return u.clamp_min(1e-6 * float(u.max()) + 1e-20), v.clamp_min(1e-6 * float(v.max()) + 1e-20)


def with_shared_codes(levels: list[Level]) -> list[Level]:
    """Returns `levels` with the codes of the last one, whose low bits are the codes of all."""
    return [replace(level, code=levels[-1].code) for level in levels]
