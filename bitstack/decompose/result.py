"""What a decomposition gives: the tensors of one stack, and how far each level is from it."""

from dataclasses import dataclass

from torch import Tensor

from bitstack.container.blocks import StackSpec


@dataclass(frozen=True)
class Decomposed:
    """`tensors` by their names within the stack, as stored.

    `row_errors` fp32 [levels, m]: mean squared change of every output row over the calibration
    tokens, E[((w_r − ŵ_r) x)²], at each level. `size` is the same for W itself, summed over rows.
    """

    spec: StackSpec
    tensors: dict[str, Tensor]
    row_errors: Tensor
    size: float

    @property
    def relative_errors(self) -> list[float]:
        """Squared error of each level relative to the matrix itself."""
        return [float(e.sum()) / max(self.size, 1e-30) for e in self.row_errors]
