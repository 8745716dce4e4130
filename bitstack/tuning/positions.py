"""Lets codes follow gradients: each weight has a position between the values of the table, and its
code is that of the nearest value.

A gradient step moves the position; when it crosses the middle between two values, the code changes.
Does not compute the gradients or choose the length of the steps; see `tuning.tuned_stack`.
"""

import torch
from torch import Tensor

_VARIANCE_DECAY = 0.99  # share of the old in the running means of squared gradients


def lookup(table: Tensor, code: Tensor) -> Tensor:
    """Returns `table[code]`, several times as fast."""
    return table.index_select(0, code.flatten().int()).view(code.shape)


class Positions:
    """The positions of all weights of one matrix, and how steps are normalised there.

    A position is held as the weight's offset from its table value, fp16. Steps are divided by the
    root of the gradients' second moment, as in Adam, but that is kept factored: one number for
    every row and one for every column (Adafactor, arXiv 1804.04235), not one for every weight.
    """

    def __init__(self, code: Tensor) -> None:
        self.offset = torch.zeros_like(code, dtype=torch.float16)
        self.row_squares = torch.zeros(code.shape[0], device=code.device)
        self.column_squares = torch.zeros(code.shape[1], device=code.device)
        self.steps = 0

    def move(
        self, code: Tensor, gradient: Tensor, table: Tensor, rate: float,
        kept: int = 0, moved: int = 8,
    ) -> Tensor:  # fmt: skip
        """Returns the codes after one step against the gradient.

        Args:
            code: the present codes, uint8 [m, n].
            gradient: of the loss by the table value of each weight, [m, n].
            table: values of the codes.
            rate: length of a step, in units of the table.
            kept: planes that stay as they are.
            moved: planes that learn. Finer ones change only in a weight where one of these does:
                the steps of a coarse level are as wide as the cells of a fine one, and would mix
                the fine codes up.
        """
        self.steps += 1
        square = gradient.square()
        self.row_squares.lerp_(square.mean(1), 1 - _VARIANCE_DECAY)
        self.column_squares.lerp_(square.mean(0), 1 - _VARIANCE_DECAY)
        # E[g²] of weight (r, c) is taken as column_c · row_r / mean(row). The bias of the running
        # mean, which starts at zero, cancels in the rows and is divided out of the columns.
        row = (self.row_squares / self.row_squares.mean().clamp_min(1e-30)).sqrt()
        row = row.clamp_min(1e-10)
        unbiased = self.column_squares / (1 - _VARIANCE_DECAY**self.steps)
        column = unbiased.sqrt().clamp_min(1e-20)
        position = lookup(table, code).add_(self.offset)
        position -= gradient / column / row.unsqueeze(1) * rate
        wanted = nearest_codes(position, table, code, kept)
        code = torch.where((wanted ^ code) & (2**moved - 1) == 0, code, wanted)
        self.offset.copy_(position - lookup(table, code))
        return code


def nearest_codes(position: Tensor, table: Tensor, code: Tensor, kept: int) -> Tensor:
    """Returns the codes of the values of `table` nearest to `position` [m, n], uint8.

    Only codes that share the first `kept` planes with `code` are taken: one family. Positions
    beyond the range of their family are moved to its end, in place. The values of each family are
    laid out on a stretch of the number line of their own, so that one search serves all families.
    """
    families = table.view(-1, 2**kept).T  # a family is a row
    values, order = families.sort(1)
    low, high = values[:, 0], values[:, -1]
    family = torch.arange(2**kept, device=table.device)
    starts = family * (1.01 * (high - low).max() + 1e-6) - low
    if kept:
        own = code & (2**kept - 1)
        position.clamp_(lookup(low, own), lookup(high, own))
        shifted = position + lookup(starts, own)
    else:
        shifted = position + starts
    # Between two values the border is in their middle; behind the last the next family begins.
    middles = (values[:, 1:] + values[:, :-1]) / 2
    edges = torch.cat([middles, high.unsqueeze(1) + 1e-7], 1) + starts.unsqueeze(1)
    codes = (order << kept) + family.unsqueeze(1)
    index = torch.bucketize(shifted, edges.flatten()[:-1], out_int32=True)
    return lookup(codes.flatten().to(torch.uint8), index)
