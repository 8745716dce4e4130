"""Codes chosen against the whole second moment: coordinate descent in column panels.

With E = X − values and G = E Hs, giving one weight another value changes its row's cost by
`2 d G_c + d² Hs_cc`, d the change of its error. Columns are visited one by one; within a panel only
the panel's own G is kept up to date, the rest follows by one matrix product a panel. Scales are
`refit`'s business.

Floors for one pass over an m x n matrix and J levels: 2 J m n² operations in the products and
about 6 J K m n in the choices among K candidates; everything else is a few passes over m n numbers.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem, times
from bitstack.kernels import native

_PANEL = 64


def descend(
    problem: Problem,
    levels: list[Level],
    felt: list[Tensor],
    weights: list[float],
    choose_from: int = 0,
) -> list[Level]:
    """One pass over all columns; the cost of a row is the weighted sum of its costs at `levels`.

    The levels share their low planes: all codes are those of the last level, masked. `felt` is the
    damped moment of each level. Candidates are the codes that agree with the present one in the
    first `choose_from` planes. The weighted sum never gets worse.
    """
    top = levels[-1]
    counted = [i for i, weight in enumerate(weights) if weight > 0]
    search = _Search(
        [levels[i] for i in counted],
        [felt[i] for i in counted],
        torch.tensor([weights[i] for i in counted], dtype=torch.float32),
        choose_from,
        2 ** (top.planes - choose_from),
    )
    chosen = torch.empty_like(top.code)
    for rows in problem.panels():
        chosen[rows] = search.rows(problem, rows)
    return [replace(level, code=chosen) for level in levels]


@dataclass(frozen=True)
class _Search:
    """The levels that count, their damped moments and weights, and the candidates."""

    levels: list[Level]
    felt: list[Tensor]
    weights: Tensor
    first: int
    candidates: int

    def rows(self, problem: Problem, rows: slice) -> Tensor:
        """The codes of some rows chosen anew: rows do not feel one another."""
        mine = [replace(level, u=level.u[rows], code=level.codes(rows)) for level in self.levels]
        x = problem.x(rows)
        products = [times(x - a.values(), h) for a, h in zip(mine, self.felt, strict=True)]
        search = replace(self, levels=mine)
        code = mine[-1].code.T.contiguous()  # a column is contiguous
        for start in range(0, len(code), _PANEL):
            part = slice(start, min(start + _PANEL, len(code)))
            local = torch.stack([g[:, part].T for g in products])  # [J, panel, m]
            moves = search.choose(part, local, code[part])
            for g, moved, h in zip(products, moves, search.felt, strict=True):
                if h.ndim > 1:
                    g.addmm_(moved.T, h[part])
        return code.T

    def choose(self, part: slice, products: Tensor, code: Tensor) -> Tensor:
        """Choose the codes [panel, m] of columns `part` in place; returns how the error of each
        level moved, [J, panel, m]. `products` [J, panel, m] is spent."""
        if code.device.type == "cpu" and native.searches():
            blocks = torch.stack([_block(h, part) for h in self.felt])
            u = torch.stack([level.u for level in self.levels])
            v = torch.stack([level.v[part] for level in self.levels])
            tables = [level.table.contiguous() for level in self.levels]
            return native.descend(
                u, v, tables, blocks, self.weights, products, code, self.first, self.candidates
            )
        moves = torch.zeros_like(products)
        mine = [_block(h, part) for h in self.felt]
        for c in range(len(code)):
            self._column(part, c, mine, products, code, moves)
        return moves

    def _column(
        self, part: slice, c: int, blocks: list[Tensor], products: Tensor, code: Tensor,
        moves: Tensor,
    ) -> None:  # fmt: skip
        """What the native panel does, one column, in torch."""
        now = code[c].int()
        step = torch.arange(self.candidates, device=code.device).int() << self.first
        candidates = (now & (2**self.first - 1)).unsqueeze(0) | step.unsqueeze(1)  # [K, m]
        cost = torch.zeros(candidates.shape, device=code.device)
        changes = []
        column = part.start + c
        for level, h, w, g in zip(self.levels, blocks, self.weights, products, strict=True):
            mask = 2**level.planes - 1
            table = level.table * level.v[column]
            change = (table[now & mask] - table[candidates & mask]) * level.u
            changes.append(change)
            cost += float(w) * change * (change * h[c, c] + 2 * g[c])
        best = cost.argmin(0, keepdim=True)
        code[c] = candidates.gather(0, best)[0].to(code.dtype)
        for change, h, g, moved in zip(changes, blocks, products, moves, strict=True):
            moved[c] = change.gather(0, best)[0]
            g.addr_(h[c], moved[c])


def _block(moment: Tensor, part: slice) -> Tensor:
    """The moment [panel, panel] of the columns `part`."""
    return torch.diag(moment[part]) if moment.ndim == 1 else moment[part, part]
