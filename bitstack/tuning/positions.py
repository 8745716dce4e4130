"""Lets codes follow gradients: each weight has a position between the values of the table, and its
code is that of the nearest value.

A gradient step moves the position; when it crosses the middle between two values, the code changes.
Does not compute the gradients or choose the length of the steps; see `tuning.tuned_stack`.
"""

import torch
from torch import Tensor

from bitstack.kernels import learning

_VARIANCE_DECAY = 0.99  # share of the old in the running means of squared gradients


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
        rows, columns = gradient.shape
        by_row, by_column = (torch.linalg.vector_norm(gradient, dim=dim) for dim in (1, 0))
        self.row_squares.lerp_(by_row.square() / columns, 1 - _VARIANCE_DECAY)
        self.column_squares.lerp_(by_column.square() / rows, 1 - _VARIANCE_DECAY)
        # E[g²] of weight (r, c) is taken as column_c · row_r / mean(row). The bias of the running
        # mean, which starts at zero, cancels in the rows and is divided out of the columns.
        row = (self.row_squares / self.row_squares.mean().clamp_min(1e-30)).sqrt()
        unbiased = self.column_squares / (1 - _VARIANCE_DECAY**self.steps)
        return learning.move(
            code, table, gradient, rate / row.clamp_min(1e-10),
            1 / unbiased.sqrt().clamp_min(1e-20), self.offset, kept, moved,
        )  # fmt: skip
