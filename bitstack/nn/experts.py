"""Defines what replaces the fused 3-D parameter of a mixture's experts.

The eager forwards of transformers' expert modules index the parameter by the number of each expert
that was chosen, and multiply the tokens that chose it. What they get stands for that matrix and
multiplies from its packed blocks. Does not put it into a model; see `nn.replace`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitstack.nn.stack import Stack

_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


class ExpertMatrix:
    """The matrix of one expert, in the model's dtype: a product with it reads the packed blocks.

    Everything else that is done with it is done with the unpacked matrix.
    """

    def __init__(self, stack: Stack, transposed: bool) -> None:
        self._stack, self._transposed = stack, transposed

    @property
    def dtype(self) -> torch.dtype:
        return self._stack.dtype

    @property
    def shape(self) -> torch.Size:
        sizes = (self._stack.spec.rows, self._stack.spec.columns)
        return torch.Size(sizes[::-1] if self._transposed else sizes)

    def unpacked(self) -> Tensor:
        """Returns the matrix as a tensor: [out, in], or [in, out] where it is transposed."""
        value = self._stack.dequantize().to(self._stack.dtype)
        return value.T if self._transposed else value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unpacked(), name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.unpacked()[index]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        own = args[1] if len(args) > 1 and isinstance(args[0], Tensor) else None
        # A product in the published format rounds more often than its matrix, and saves nothing.
        if isinstance(own, cls) and own._stack.spec.format == "codes":
            if func is F.linear and not own._transposed:
                return own._stack.product(*_linear_arguments(*args, **kwargs))
            if func in _PRODUCTS and own._transposed and args[0].ndim:
                return own._stack.product(args[0])
        return func(*map(_unpacked, args), **{k: _unpacked(v) for k, v in kwargs.items()})


def _linear_arguments(
    x: Tensor, _: ExpertMatrix, bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    return x, bias


def _unpacked(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_unpacked, value))
    return value.unpacked() if isinstance(value, ExpertMatrix) else value


class PackedExperts(nn.ModuleList):
    """Replaces a fused 3-D expert parameter.

    Where a forward multiplies with all experts at once, `torch.bmm` takes the stacks one after
    another.
    """

    def __init__(self, stacks: list[Stack], transposed: bool) -> None:
        super().__init__(stacks)
        self.transposed = transposed

    def __getitem__(self, index: int | Tensor) -> Any:  # type: ignore[override]
        stack = self._modules[str(int(index))]
        assert isinstance(stack, Stack)
        matrix = ExpertMatrix(stack, self.transposed)
        return matrix.unpacked() if torch.compiler.is_compiling() else matrix

    @property
    def shape(self) -> torch.Size:
        first: Any = self._modules["0"]
        sizes = (first.spec.rows, first.spec.columns)
        return torch.Size((len(self), *(sizes[::-1] if self.transposed else sizes)))

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Tensor:
        """Computes `torch.bmm(x, experts)`: of x [experts, tokens, in], [experts, tokens, out]."""
        if func is not torch.bmm or not isinstance(args[1], cls) or not args[1].transposed:
            return NotImplemented
        pairs = zip(args[1].stacks, args[0], strict=True)
        return torch.stack([stack.product(x) for stack, x in pairs])

    @property
    def stacks(self) -> list[Any]:
        """The stacks, one an expert."""
        return list(self._modules.values())
