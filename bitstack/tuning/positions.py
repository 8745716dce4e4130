"""Where each weight stands between the values of a table, and which it is nearest to.

Steps are normalised by the variance of gradients, and codes follow the positions. Whose gradients
these are, and how long the steps, is `tuned`'s business.
"""

import torch
from torch import Tensor

_VARIANCE = 0.99  # share of the old in the running mean of squared gradients


def lookup(table: Tensor, code: Tensor) -> Tensor:
    """`table[code]`, several times as fast."""
    return table.index_select(0, code.flatten().int()).view(code.shape)


class Positions:
    """Where each weight stands in the range of the table, and how steps are normalised there.

    Held for each weight: its offset from its table value, fp16. The variance of the gradients is
    one number a row and one a column (Adafactor, arXiv 1804.04235).
    """

    def __init__(self, code: Tensor) -> None:
        self.offset = torch.zeros_like(code, dtype=torch.float16)
        self.rows = torch.zeros(code.shape[0], device=code.device)
        self.columns = torch.zeros(code.shape[1], device=code.device)
        self.steps = 0

    def move(
        self, code: Tensor, gradient: Tensor, table: Tensor, rate: float,
        kept: int = 0, moved: int = 8,
    ) -> Tensor:  # fmt: skip
        """The codes after one step of `rate` against `gradient` [m, n], that of the cells; the
        first `kept` planes stay, and those behind the first `moved` until one of these changes:
        the steps of a coarse level are as wide as the cells of a fine one, and would mix them up.
        """
        self.steps += 1
        square = gradient.square()
        self.rows.lerp_(square.mean(1), 1 - _VARIANCE)
        self.columns.lerp_(square.mean(0), 1 - _VARIANCE)
        row = (self.rows / self.rows.mean().clamp_min(1e-30)).sqrt().clamp_min(1e-10)
        column = (self.columns / (1 - _VARIANCE**self.steps)).sqrt().clamp_min(1e-20)
        position = lookup(table, code).add_(self.offset)
        position -= gradient / column / row.unsqueeze(1) * rate
        found = nearest(position, table, code, kept)
        code = torch.where((found ^ code) & (2**moved - 1) == 0, code, found)
        self.offset.copy_(position - lookup(table, code))
        return code


def nearest(position: Tensor, table: Tensor, code: Tensor, kept: int) -> Tensor:
    """Codes of the values of `table` nearest to `position` [m, n], uint8, among those that share
    the first `kept` planes with `code`; positions beyond their range are moved to its end.

    The values of each such family are laid out on a stretch of their own, so that one search finds
    all.
    """
    families = table.view(-1, 2**kept).T  # a family is a row
    values, order = families.sort(1)
    low, high = values[:, 0], values[:, -1]
    family = torch.arange(2**kept, device=table.device)
    starts = family * (1.01 * (high - low).max() + 1e-6) - low
    if kept:
        mine = code & (2**kept - 1)
        position.clamp_(lookup(low, mine), lookup(high, mine))
        shifted = position + lookup(starts, mine)
    else:
        shifted = position + starts
    middles = (values[:, 1:] + values[:, :-1]) / 2
    edges = torch.cat([middles, high.unsqueeze(1) + 1e-7], 1) + starts.unsqueeze(1)
    codes = (order << kept) + family.unsqueeze(1)
    found = torch.bucketize(shifted, edges.flatten()[:-1], out_int32=True)
    return lookup(codes.flatten().to(torch.uint8), found)
