"""Holds a matrix of which some rows each are a stack of their own, one below another.

Stacks have the names "0", "1", … within it. Does not say where a matrix is split (see
`original.row_parts`) or what replaces which module (see `nn.modules`).
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from bitstack.container.blocks import StackSpec
from bitstack.nn.stack import Stack


class RowParts(nn.Module):
    """A rows x columns matrix in parts of some rows, each at a level of its own."""

    def __init__(self, specs: Sequence[StackSpec], dtype: torch.dtype) -> None:
        # Not super(): in a PartedLinear that would be nn.Linear, which makes a weight.
        nn.Module.__init__(self)
        self.rows, self.columns = sum(spec.rows for spec in specs), specs[0].columns
        self.ends = [*accumulate(spec.rows for spec in specs)]
        for index, spec in enumerate(specs):
            self.add_module(str(index), Stack(spec, dtype))

    @property
    def parts(self) -> list[Stack]:
        return [part for part in self.children() if isinstance(part, Stack)]

    @property
    def dtype(self) -> torch.dtype:
        """That of the matrix, which follows the casts of the model."""
        return self.parts[0].dtype

    def dequantize(self) -> Tensor:
        """Returns the matrix, fp32 [rows, columns]."""
        return torch.cat([part.dequantize() for part in self.parts])

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns `x` [..., columns] times the transposed matrix plus `bias`: [..., rows]."""
        sizes = [part.spec.rows for part in self.parts]
        own: Sequence[Any] = [None] * len(sizes) if bias is None else bias.split(sizes)
        pairs = zip(self.parts, own, strict=True)
        return torch.cat([part.product(x, b) for part, b in pairs], dim=-1)

    def gather(self, ids: Tensor) -> Tensor:
        """Returns rows `ids` (int64, any shape) of the matrix, fp32 [*ids.shape, columns]."""
        flat = ids.reshape(-1)
        owners = torch.bucketize(flat, torch.tensor(self.ends, device=ids.device), right=True)
        rows = torch.empty(len(flat), self.columns, device=ids.device)
        for index in owners.unique().tolist():
            first, at = self.ends[index] - self.parts[index].spec.rows, owners == index
            rows[at] = self.parts[index].gather(flat[at] - first).float()
        return rows.view(*ids.shape, self.columns)
