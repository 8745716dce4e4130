"""Collects what a run of the model shows of each matrix: second moments of its inputs, and squares
of the loss gradient at its outputs.

Does not run the model; see `calibration.layers`. Does not make the gradients; see
`calibration.fisher`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitstack.calibration.layer_calls import Stop
from bitstack.original.matrix import Matrix

_BLOCK = 256  # columns of a block of second moments
_PRODUCTS = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)


@dataclass
class Moments:
    """Statistics of the inputs of one matrix: sums over tokens and over samples, fp32."""

    second: Tensor  # [n, n] sum of x xᵀ over tokens; what is below the diagonal is not kept up
    norms: Tensor  # [n] sum over samples of the L2 norm over the sequence
    tokens: int = 0
    samples: int = 0

    @classmethod
    def zero(cls, columns: int, device: torch.device) -> "Moments":
        return cls(
            torch.zeros(columns, columns, device=device), torch.zeros(columns, device=device)
        )

    def add(self, x: Tensor) -> None:
        """Adds the inputs `x` [..., n]; in [b, tokens, n] each of the b entries is a sample."""
        x = x.detach().float()
        samples = x if x.ndim == 3 else x.reshape(1, -1, x.shape[-1])
        flat = x.reshape(-1, x.shape[-1])
        self._add_products(flat)
        self.norms += samples.norm(dim=1).sum(0)
        self.tokens += len(flat)
        self.samples += len(samples)

    def _add_products(self, flat: Tensor) -> None:
        """Adds xᵀx to the blocks above the diagonal and on it: the others mirror them."""
        for start in range(0, flat.shape[1], _BLOCK):
            rows = slice(start, start + _BLOCK)
            self.second[rows, start:].addmm_(flat[:, rows].T, flat[:, start:])

    def mean(self) -> Tensor:
        """Returns E[x xᵀ] over tokens, fp32 [n, n]."""
        upper = self.second.triu()
        return (upper + upper.triu(1).T) / max(self.tokens, 1)

    def mean_norm(self) -> Tensor:
        """Returns the mean over samples of the L2 norm over the sequence, [n].

        The published BitStack scales columns by it (arXiv 2410.23918).
        """
        return self.norms / max(self.samples, 1)


@dataclass
class InputObserver:
    """Collects `Moments` by matrix name; matrices fed by one tensor (q, k, v) share theirs.

    A pass ends, by `layer_calls.Stop`, before the product at which all of `until` have been seen:
    of a head only the inputs are wanted, and logits are large.
    """

    moments: dict[str, Moments] = field(default_factory=dict)
    until: frozenset[str] = frozenset()  # names of matrices; empty: passes go on to their end
    _met: set[str] = field(default_factory=set)  # of `until`, in this pass
    _seen: dict[int, tuple[Tensor, Moments]] = field(default_factory=dict)
    _batch: torch.Size | None = None  # samples, tokens

    def observe_input(self, matrix: Matrix, x: Tensor) -> None:
        """Adds the inputs `x` [..., n] to the moments of `matrix`."""
        # The tensor is kept until the batch ends, or its id could be another one's by then.
        if id(x) in self._seen:
            self.moments.setdefault(matrix.name, self._seen[id(x)][1])
        else:
            own = self.moments.setdefault(matrix.name, Moments.zero(matrix.columns, x.device))
            own.add(self._by_sample(x))
            self._seen[id(x)] = (x, own)
        self._met.add(matrix.name)
        if self.until and self._met >= self.until:
            self._met.clear()
            raise Stop

    def observe_output(self, matrix: Matrix, y: Tensor) -> None:
        """Does nothing: only inputs are collected."""

    def end_batch(self) -> None:
        """Forgets the tensors of the batch; call it after each."""
        self._seen.clear()
        self._batch = None

    def _by_sample(self, x: Tensor) -> Tensor:
        """`x` [samples, tokens, n] again where the layer has flattened it on the way (OPT)."""
        if x.ndim == 3:
            self._batch = x.shape[:2]
        elif self._batch and len(x) == self._batch.numel():
            return x.unflatten(0, self._batch)
        return x


@dataclass
class GradientObserver:
    """Collects the sum over tokens of the squared gradient at each output row, fp32 [m]."""

    squares: dict[str, Tensor] = field(default_factory=dict)

    def observe_input(self, matrix: Matrix, x: Tensor) -> None:
        """Does nothing: only gradients at outputs are collected."""

    def observe_output(self, matrix: Matrix, y: Tensor) -> None:
        """Adds the gradient at `y` [..., m] to the squares of `matrix`, once it is computed."""
        if y.requires_grad:
            y.register_hook(lambda gradient: self._add(matrix, gradient))

    def _add(self, matrix: Matrix, gradient: Tensor) -> None:
        own = gradient.detach()[..., matrix.own_rows]
        square = own.float().reshape(-1, matrix.rows).square().sum(0)
        known = self.squares.get(matrix.name)
        self.squares[matrix.name] = square if known is None else known + square


Observer = InputObserver | GradientObserver


@contextmanager
def observed(model: nn.Module, matrices: list[Matrix], observer: Observer) -> Iterator[None]:
    """Within this context `observer` sees every product with one of `matrices`.

    The matrices must be loaded in `model`. An embedding is seen only where it is tied, as head.
    """
    experts = {
        matrix.of(model.get_parameter(matrix.parameter)).data_ptr(): matrix
        for matrix in matrices
        if matrix.kind == "expert"
    }
    with ExitStack() as stack:
        for matrix in matrices:
            if matrix.kind in ("linear", "conv1d", "head"):
                stack.callback(_hook(model.get_submodule(matrix.module), matrix, observer))
            elif matrix.tied:
                stack.callback(_hook(model.get_submodule(matrix.tied), matrix, observer))
        if experts:
            stack.enter_context(_ExpertProducts(experts, observer))
        yield


def _hook(module: nn.Module, matrix: Matrix, observer: Observer) -> Any:
    """Registers the observer at a module; returns the function that removes it."""

    if isinstance(observer, InputObserver):
        return module.register_forward_pre_hook(
            lambda _, args: observer.observe_input(matrix, args[0])
        ).remove
    return module.register_forward_hook(
        lambda _, args, output: observer.observe_output(matrix, output)
    ).remove


class _ExpertProducts(TorchFunctionMode):
    """Sees the products of single experts. These are no modules and take no hooks, so a product is
    known by the address of the expert's slice of the fused tensor. A product of all experts at
    once is taken apart; a token that an expert does not take is a row of zeros there."""

    def __init__(self, experts: dict[int, Matrix], observer: Observer) -> None:
        super().__init__()
        self.experts, self.observer = experts, observer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.bmm and len(args) == 2 and args[1].data_ptr() in self.experts:
            return torch.stack([self._one(x, w) for x, w in zip(*args, strict=True)])
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS and len(args) > 1 and isinstance(args[1], Tensor):
            matrix = self.experts.get(args[1].data_ptr())
            if matrix is not None and args[0].numel():
                self.observer.observe_input(matrix, args[0])
                self.observer.observe_output(matrix, result)
        return result

    def _one(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns x [tokens, in] @ weight [in, out], computed and seen where x is not zero."""
        taken = x.any(-1)
        with self:  # it is off within its own function
            product = x[taken] @ weight
        result = product.new_zeros(len(x), weight.shape[1])
        result[taken] = product
        return result
