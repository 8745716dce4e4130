"""Describes the two kinds of parts of a model: matrices to decompose, and tensors that stay dense.

Needs no torch, so that a manifest is read without it. Does not find them in a model; see
`original.matrices`.
"""

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Matrix:
    """One weight that is decomposed, seen as rows x columns = outputs x inputs.

    `name` is unique and is the name of its tensors in a container; `parameter` is the model's
    parameter that holds it, sliced by `expert` where that is a fused tensor, and `transposed` says
    that the parameter is stored inputs x outputs. `module` is the module that uses it, `tied` the
    LM head that shares an embedding, `layer` the index of its decoder layer or None. `first_row` is
    where this part of an embedding or LM head begins, None for all of it.
    """

    name: str
    parameter: str
    module: str
    kind: str
    rows: int
    columns: int
    layer: int | None = None
    expert: int | None = None
    transposed: bool = False
    tied: str | None = None
    first_row: int | None = None

    @property
    def weights(self) -> int:
        """Numbers in the matrix."""
        return self.rows * self.columns

    @property
    def role(self) -> str:
        """The name without layer and expert numbers: equal for the same matrix of every layer."""
        return re.sub(r"\.\d+(?=\.|$)", "", self.name)

    def of(self, parameter: "Tensor") -> "Tensor":
        """Returns the view [rows, columns] of this matrix in the value of its parameter."""
        value = parameter if self.expert is None else parameter[self.expert]
        value = value.T if self.transposed else value
        return value if self.first_row is None else value[self.own_rows]

    @property
    def own_rows(self) -> slice:
        """Its rows among those of the whole matrix of which it is a part."""
        first = self.first_row or 0
        return slice(first, first + self.rows)


@dataclass(frozen=True)
class Dense:
    """A tensor that stays as it is: a parameter or a buffer of the live model."""

    name: str
    shape: tuple[int, ...]
    dtype: "torch.dtype"
    persistent: bool

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize
