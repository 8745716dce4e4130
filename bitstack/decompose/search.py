"""Searches codes against the whole second moment: coordinate descent in panels of columns.

GPTQ (arXiv 2210.17323) and LDLQ (QuIP, arXiv 2307.13304) round column after column once and feed
the error to the columns still to come. This search does more: it visits every column of codes that
exist and takes the best value given all others, as often as it is called. With E = X − values and
G = E H, changing one weight's error by d changes the cost of its row by `2 d G_c + d² H_cc`: the
cost is quadratic, G is half its gradient and H_cc half its curvature. Within a panel only the
panel's own G is kept up to date, the other columns follow by one matrix product a panel. Does not
fit scales; see `decompose.refit`.

Floors for one pass over an m x n matrix and J levels: 2 J m n² operations in the products and
about 6 J K m n in the choices among K candidates; everything else is a few passes over m n numbers.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem, times
from bitstack.kernels import native

_PANEL = 64  # columns


def descend(
    problem: Problem,
    levels: list[Level],
    hessians: list[Tensor],
    weights: list[float],
    kept: int = 0,
) -> list[Level]:
    """Makes one pass over all columns; the weighted sum of the levels' errors never rises.

    Args:
        levels: levels that share their low planes: all codes are those of the last, masked.
        hessians: the damped second moment of each level, [n, n] or its diagonal [n].
        weights: how much the error of each level counts; 0 leaves it out.
        kept: planes that stay as they are; the candidates agree with the present code there.

    Returns:
        `levels` with the chosen codes; scales and tables are the same.
    """
    top = levels[-1]
    counted = [i for i, weight in enumerate(weights) if weight > 0]
    search = _Search(
        [levels[i] for i in counted],
        [hessians[i] for i in counted],
        torch.tensor([weights[i] for i in counted], dtype=torch.float32),
        kept,
        2 ** (top.planes - kept),
    )
    chosen = torch.empty_like(top.code)
    for rows in problem.panels():
        chosen[rows] = search.choose_rows(problem, rows)
    return [replace(level, code=chosen) for level in levels]


@dataclass(frozen=True)
class _Search:
    """The levels that count, with their damped second moments and weights, and the candidates."""

    levels: list[Level]
    hessians: list[Tensor]
    weights: Tensor
    kept: int  # planes that stay
    candidates: int  # codes to choose among

    def choose_rows(self, problem: Problem, rows: slice) -> Tensor:
        """New codes of some rows. The error of one row does not depend on another row's codes."""
        levels = [replace(level, u=level.u[rows], code=level.codes(rows)) for level in self.levels]
        x = problem.x(rows)
        # G = E H of every level: half the gradient of each row's cost.
        gradients = [times(x - a.values(), h) for a, h in zip(levels, self.hessians, strict=True)]
        search = replace(self, levels=levels)
        code = levels[-1].code.T.contiguous()  # a column is contiguous
        for start in range(0, len(code), _PANEL):
            part = slice(start, min(start + _PANEL, len(code)))
            local = torch.stack([g[:, part].T for g in gradients])  # [J, panel, m]
            changes = search.choose_panel(part, local, code[part])
            for g, change, h in zip(gradients, changes, search.hessians, strict=True):
                if h.ndim > 1:  # a diagonal H: columns do not depend on one another
                    g.addmm_(change.T, h[part])
        return code.T

    def choose_panel(self, part: slice, gradients: Tensor, code: Tensor) -> Tensor:
        """Chooses the codes [panel, m] of columns `part` in place.

        `gradients` [J, panel, m] is used up. Returns how the errors E of every level changed,
        [J, panel, m].
        """
        blocks = [_diagonal_block(h, part) for h in self.hessians]
        if code.device.type == "cpu" and native.has_descend():
            u = torch.stack([level.u for level in self.levels])
            v = torch.stack([level.v[part] for level in self.levels])
            tables = [level.table.contiguous() for level in self.levels]
            return native.descend(
                u, v, tables, torch.stack(blocks), self.weights, gradients, code, self.kept,
                self.candidates,
            )  # fmt: skip
        changes = torch.zeros_like(gradients)
        for c in range(len(code)):
            self._choose_column(part, c, blocks, gradients, code, changes)
        return changes

    def _choose_column(
        self, part: slice, c: int, blocks: list[Tensor], gradients: Tensor, code: Tensor,
        changes: Tensor,
    ) -> None:  # fmt: skip
        """Does in torch, for column `c` of the panel, what the native search does."""
        now = code[c].int()
        step = torch.arange(self.candidates, device=code.device).int() << self.kept
        candidates = (now & (2**self.kept - 1)).unsqueeze(0) | step.unsqueeze(1)  # [K, m]
        cost = torch.zeros(candidates.shape, device=code.device)
        changes_by_level = []
        column = part.start + c
        for level, h, w, g in zip(self.levels, blocks, self.weights, gradients, strict=True):
            mask = 2**level.planes - 1
            table = level.table * level.v[column]
            change = (table[now & mask] - table[candidates & mask]) * level.u  # d, [K, m]
            changes_by_level.append(change)
            cost += float(w) * change * (change * h[c, c] + 2 * g[c])  # 2 d G_c + d² H_cc
        best = cost.argmin(0, keepdim=True)
        code[c] = candidates.gather(0, best)[0].to(code.dtype)
        for change, h, g, changed in zip(changes_by_level, blocks, gradients, changes, strict=True):
            changed[c] = change.gather(0, best)[0]
            g.addr_(h[c], changed[c])  # the panel's other columns feel the change at once


def _diagonal_block(hessian: Tensor, part: slice) -> Tensor:
    """The block [panel, panel] of the columns `part` among themselves."""
    return torch.diag(hessian[part]) if hessian.ndim == 1 else hessian[part, part]
