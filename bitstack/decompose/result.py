"""Holds what a decomposition gives: the tensors of one stack, and the error of every level. Does
not compute either; see `decompose.nested` and `decompose.published`."""

from dataclasses import dataclass

from torch import Tensor

from bitstack.container.blocks import StackSpec


@dataclass(frozen=True)
class Decomposed:
    """The stack of one matrix W, and what every level of it gets wrong."""

    spec: StackSpec
    tensors: dict[str, Tensor]  # by their names within the stack, as stored
    row_errors: Tensor  # fp32 [levels, m]: E[((w_r − ŵ_r) x)²] of every output row, over tokens
    mean_square: float  # the same for W itself, summed over rows: Σ_r E[(w_r x)²]

    @property
    def relative_errors(self) -> list[float]:
        """Squared error of each level relative to the matrix itself."""
        return [float(e.sum()) / max(self.mean_square, 1e-30) for e in self.row_errors]
