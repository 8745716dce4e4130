"""One level of a coded matrix in X-space: codes and the scale set that turns them into values.

`values = diag(u) T[code] diag(v)`. Everything is held as fp32 and rounded to fp16 where it is
stored. Does not fit anything; see `decompose.refit` and `decompose.search`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitstack.decompose.problem import Problem, Space
from bitstack.kernels import codes

_LARGEST = 65504.0  # largest fp16
_LARGE = 32768.0  # largest row scale that is stored with a table of values up to one
_SMALLEST = 6.2e-5  # smallest normal fp16
_POWER_STEPS = 4  # power iterations: the magnitudes of real weights need three


@dataclass(frozen=True)
class Level:
    """Codes of `planes` bits, and their scale set.

    The levels of one chain share the tensor `code`: a level reads its low `planes` bits, the levels
    above also the next ones.
    """

    code: Tensor  # uint8 [m, n]
    u: Tensor  # [m], scale of every row
    v: Tensor  # [n], scale of every column
    table: Tensor  # T [2^planes], value of every code
    planes: int
    product: Tensor | None = None  # (X − values) M [m, n], where it is known

    def codes(self) -> Tensor:
        """The codes, without the bits of levels above."""
        return self.code & (2**self.planes - 1)

    def values(self) -> Tensor:
        """The approximation of X, a new tensor [m, n]."""
        return codes.values(self.code, self.planes, self.table, self.u, self.v)

    def error(self, problem: Problem) -> Tensor:
        """X − values, a new tensor [m, n]."""
        return self.values().neg_().add_(problem.x)

    def with_product(self, problem: Problem) -> "Level":
        """Returns the level with its `product`: one product of m n² operations if it is unknown."""
        if self.product is not None:
            return self
        return replace(self, product=problem.times_moment(self.error(problem)))

    def row_errors(self, problem: Problem) -> Tensor:
        """Returns the mean squared change of each output over tokens, E[(e_r x)²], fp32 [m]."""
        product = self.with_product(problem).product
        assert product is not None
        return problem.mean_squares(self.error(problem), product)

    def balance(self, space: Space) -> tuple[float, float]:
        """Returns what T and v are divided by where they are stored, and u multiplied by.

        A factor can move freely between the three. It is set so that T has a largest value of one
        and v, without the columns' scale, a mean size of one: fp16 then holds any matrix whose rows
        fp16 could hold. Where a row of u would still be too large, T takes the rest.
        """
        height = float(self.table.abs().max().clamp_min(1e-30))
        width = float((self.v / space.scale).abs().mean().clamp_min(1e-30))
        return height / max(1.0, float(self.u.abs().max()) * height * width / _LARGE), width

    def stored_scales(self, space: Space, balance: tuple[float, float]) -> "StoredScales":
        """Returns (u, v, T) as stored, fp16, in W-space: `v` divided by the columns' scale."""
        height, width = balance
        v = self.v / (space.scale * width)
        return _to_fp16(self.u * (height * width)), _to_fp16(v), _to_fp16(self.table / height)

    def with_scales(self, space: Space, stored: "StoredScales") -> "Level":
        """Returns the level as a reader of `stored` will see it."""
        u, v, table = stored
        v = v.float() * space.scale
        return replace(self, u=u.float(), v=v, table=table.float(), product=None)


StoredScales = tuple[Tensor, Tensor, Tensor]  # u, v, T, fp16


def _to_fp16(x: Tensor) -> Tensor:
    """Rounds to finite fp16; what is smaller than any fp16 number becomes zero."""
    x = torch.nan_to_num(x).clamp(-_LARGEST, _LARGEST)
    return torch.where(x.abs() < _SMALLEST / 1024, 0.0, x).half()


def first_columns(problem: Problem) -> Tensor:
    """Returns v [n] > 0 of the rank-1 fit of |X|: its first right singular vector.

    By power iteration on |X|ᵀ|X|. A matrix without negative entries has one dominant pair of
    singular vectors, and that pair is positive (Perron-Frobenius).
    """
    magnitudes = problem.x.abs()
    v = torch.ones(problem.shape[1], device=problem.device)
    for _ in range(_POWER_STEPS):
        v = (magnitudes @ (v / v.norm().clamp_min(1e-30))) @ magnitudes
    v = v / v.norm().clamp_min(1e-30) * len(v) ** 0.5
    # A dead column has scale zero; a tiny one keeps divisions by it finite.
    return v.clamp_min(1e-6 * float(v.max()) + 1e-20)


def first_rows(problem: Problem, v: Tensor) -> Tensor:
    """Returns u [m] > 0 of the rank-1 fit u vᵀ of |X|."""
    u = problem.x.abs() @ v / v.square().sum()
    return u.clamp_min(1e-6 * float(u.max()) + 1e-20)
