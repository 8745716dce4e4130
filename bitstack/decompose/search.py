"""Codes chosen against the whole second moment: coordinate descent in column panels.

With E = X − values and G = E Hs, giving one weight another value changes its row's cost by
`2 d G_c + d² Hs_cc`, d the change of its error. Columns are visited one by one; within a panel only
the panel's own G is kept up to date, the rest follows by one matrix product a panel. Scales are
`refit`'s business.

Floors for one pass over an m x n matrix and J levels: 2 J m n² operations in the products and
about 6 J K m n in the choices among K candidates; everything else is a few passes over m n numbers.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem

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
    first `choose_from` planes. No level sum ever gets worse.
    """
    code = levels[-1].code.clone()
    choices = 2 ** (levels[-1].planes - choose_from)
    kept = 2**choose_from - 1
    step = torch.arange(choices, device=code.device) << choose_from
    products = [(problem.x - level.values()) @ h for level, h in zip(levels, felt, strict=True)]
    columns = code.shape[1]
    for start in range(0, columns, _PANEL):
        stop = min(start + _PANEL, columns)
        _panel(levels, felt, weights, products, code, start, stop, step, kept)
    return [replace(level, code=code & (2**level.planes - 1)) for level in levels]


def _panel(
    levels: list[Level],
    felt: list[Tensor],
    weights: list[float],
    products: list[Tensor],
    code: Tensor,
    start: int,
    stop: int,
    step: Tensor,
    kept: int,
) -> None:
    """Choose the codes of columns `start` to `stop` and bring every G up to date."""
    rows = len(code)
    local = [g[:, start:stop].T.contiguous() for g in products]  # [panel, m]
    moved = [torch.zeros_like(g) for g in local]
    for c in range(start, stop):
        now = code[:, c].int()
        candidates = (now & kept).unsqueeze(0) + step.unsqueeze(1)  # [K, m]
        cost = torch.zeros(len(step), rows, device=code.device)
        changes = []
        for level, h, w, g in zip(levels, felt, weights, local, strict=True):
            mask = 2**level.planes - 1
            table = level.table * level.v[c]
            old = table[now & mask]
            change = (old - table[candidates & mask]) * level.u
            changes.append(change)
            # 2 d G_c + d² Hs_cc
            cost += w * change * (change * h[c, c] + 2 * g[c - start])
        best = cost.argmin(0, keepdim=True)
        code[:, c] = candidates.gather(0, best)[0].to(code.dtype)
        for change, h, g, moves in zip(changes, felt, local, moved, strict=True):
            d = change.gather(0, best)[0]
            moves[c - start] = d
            g.addr_(h[c, start:stop], d)
    for g, moves, h in zip(products, moved, felt, strict=True):
        g.addmm_(moves.T, h[start:stop])
