"""Text in, what the decomposition needs to know of it out: second moments of every matrix's input
and of the loss gradient at its output, streamed layer by layer.

Nothing else is kept: no activations of more than one layer. How the model is run is `streaming`'s
business, where the text comes from is `text`'s.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitstack.matrices import Matrix
from bitstack.streaming import LayerRunner, Spill

_PRODUCTS = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)


@dataclass
class Moments:
    """What text says of one matrix's input: sums over tokens, fp32."""

    second: Tensor  # [n, n] sum of x xᵀ
    norms: Tensor  # [n] sum over samples of the L2 norm over the sequence
    tokens: int = 0
    samples: int = 0

    @classmethod
    def zero(cls, columns: int, device: torch.device) -> "Moments":
        return cls(
            torch.zeros(columns, columns, device=device), torch.zeros(columns, device=device)
        )

    def add(self, x: Tensor) -> None:
        """Count in `x` [..., n]; a leading batch dimension separates the samples."""
        x = x.detach().float()
        samples = x if x.ndim == 3 else x.reshape(1, -1, x.shape[-1])
        flat = x.reshape(-1, x.shape[-1])
        self.second.addmm_(flat.T, flat)
        self.norms += samples.norm(dim=1).sum(0)
        self.tokens += len(flat)
        self.samples += len(samples)

    def mean(self) -> Tensor:
        """E[x xᵀ], fp32 [n, n]."""
        return self.second / max(self.tokens, 1)

    def mean_norm(self) -> Tensor:
        """Mean over samples of the L2 norm over the sequence, [n] (arXiv 2410.23918)."""
        return self.norms / max(self.samples, 1)


@dataclass
class InputObserver:
    """Collects `Moments` by matrix name; matrices fed by one tensor (q, k, v) share theirs."""

    moments: dict[str, Moments] = field(default_factory=dict)
    _seen: dict[int, tuple[Tensor, Moments]] = field(default_factory=dict)
    _batch: torch.Size | None = None  # samples, tokens

    def saw(self, matrix: Matrix, x: Tensor) -> None:
        # The tensor is kept until the batch ends, or its id could be another one's by then.
        if id(x) in self._seen:
            self.moments.setdefault(matrix.name, self._seen[id(x)][1])
            return
        own = self.moments.setdefault(matrix.name, Moments.zero(matrix.columns, x.device))
        own.add(self._by_sample(x))
        self._seen[id(x)] = (x, own)

    def end_batch(self) -> None:
        self._seen.clear()
        self._batch = None

    def _by_sample(self, x: Tensor) -> Tensor:
        """`x` [samples, tokens, n] again where the layer has flattened it on the way (OPT)."""
        if x.ndim == 3:
            self._batch = x.shape[:2]
        elif self._batch and len(x) == self._batch.numel():
            return x.unflatten(0, self._batch)
        return x

    def gave(self, matrix: Matrix, y: Tensor) -> None:
        """Outputs are not observed."""


@dataclass
class GradientObserver:
    """Collects the sum over tokens of the squared gradient at each output row, fp32 [m]."""

    squares: dict[str, Tensor] = field(default_factory=dict)

    def saw(self, matrix: Matrix, x: Tensor) -> None:
        """Inputs are not observed."""

    def gave(self, matrix: Matrix, y: Tensor) -> None:
        if y.requires_grad:
            y.register_hook(lambda gradient: self._add(matrix, gradient))

    def _add(self, matrix: Matrix, gradient: Tensor) -> None:
        square = gradient.detach().float().reshape(-1, matrix.rows).square().sum(0)
        known = self.squares.get(matrix.name)
        self.squares[matrix.name] = square if known is None else known + square


Observer = InputObserver | GradientObserver


@contextmanager
def observed(model: nn.Module, matrices: list[Matrix], observer: Observer) -> Iterator[None]:
    """Every product with one of `matrices` (loaded in `model`) is shown to `observer`."""
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
    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        observer.saw(matrix, args[0])
        observer.gave(matrix, output)

    return module.register_forward_hook(hook).remove


class _ExpertProducts(TorchFunctionMode):
    """Sees the products of single experts, which are no modules: by the memory of their slice."""

    def __init__(self, experts: dict[int, Matrix], observer: Observer) -> None:
        super().__init__()
        self.experts, self.observer = experts, observer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS and isinstance(args[1], Tensor):
            matrix = self.experts.get(args[1].data_ptr())
            if matrix is not None and args[0].numel():
                self.observer.saw(matrix, args[0])
                self.observer.gave(matrix, result)
        return result


@dataclass
class Sensitivity:
    """How much the loss feels an error: gradient second moments, means over tokens."""

    rows: dict[str, Tensor]  # matrix -> [m], E[g²] of each output row
    embedding: Tensor  # [d, d], E[g gᵀ] for a row of the embedding, at the tokens that use it

    def of_embedding(
        self, uses: Tensor, head_moment: Tensor | None, head_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Moment [d, d] and row weights [V] of an embedding whose rows were used `uses` [V] times.

        Row r used as input costs share_r · e G eᵀ; where the head is tied to it, used as output it
        costs also rows_r · e H eᵀ. The sum is put as one moment and one weight a row, exact when
        all rows err alike.
        """
        gradient = self.embedding
        share = (uses + 1).to(gradient) / float(uses.sum() + len(uses))
        if head_moment is None or head_rows is None:
            return gradient, share
        head = head_rows.to(gradient)
        moment = head.sum() * head_moment + gradient
        felt = head * head_moment.trace() + share * gradient.trace()
        return moment, felt / moment.trace()


def sensitivity(
    runner: LayerRunner, matrices: list[Matrix], spill: Spill, *, seed: int
) -> Sensitivity:
    """One backward pass of the model's own expected loss.

    Labels are drawn from the model's predictions, which makes the squared gradients the Fisher
    information: the curvature of the loss, not its slope. Layer inputs are spilled to files on the
    way forward and taken back on the way down.
    """
    observer = GradientObserver()
    model, by_layer = runner.source.model, _by_layer(matrices)
    with runner.outer():
        hidden = runner.embed()
        first = hidden
        for index in range(len(runner)):
            spill.put(f"layer-{index}", hidden)
            with runner.layer(index), torch.no_grad():
                hidden = [runner.step(index, h) for h in hidden]
        with observed(model, by_layer.get(None, []), observer):
            gradients = _head_gradients(runner, hidden, seed)
        for index in reversed(range(len(runner))):
            inputs = spill.take(f"layer-{index}")
            with runner.layer(index), observed(model, by_layer.get(index, []), observer):
                gradients = [
                    _pull(runner, index, h, g) for h, g in zip(inputs, gradients, strict=True)
                ]
        tokens = sum(ids.numel() for ids in runner.windows)
        rows = {name: square / tokens for name, square in observer.squares.items()}
        return Sensitivity(rows, _embedding_gradient(runner, first, gradients) / tokens)


def _by_layer(matrices: list[Matrix]) -> dict[int | None, list[Matrix]]:
    layers: dict[int | None, list[Matrix]] = {}
    for matrix in matrices:
        layers.setdefault(matrix.layer, []).append(matrix)
    return layers


def _head_gradients(runner: LayerRunner, hidden: list[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gradients = []
    for batch, value in enumerate(hidden):
        value = value.detach().requires_grad_()
        logits = runner.logits(batch, value).float().flatten(0, 1)
        chances = logits.detach().softmax(-1).cpu()
        labels = torch.multinomial(chances, 1, generator=generator)[:, 0].to(logits.device)
        F.cross_entropy(logits, labels, reduction="sum").backward()
        assert value.grad is not None
        gradients.append(value.grad)
    return gradients


def _pull(runner: LayerRunner, index: int, hidden: Tensor, gradient: Tensor) -> Tensor:
    hidden = hidden.detach().requires_grad_()
    runner.step(index, hidden).backward(gradient)
    assert hidden.grad is not None
    return hidden.grad


def _embedding_gradient(
    runner: LayerRunner, hidden: list[Tensor], gradients: list[Tensor]
) -> Tensor:
    """Sum over tokens of g gᵀ for the embedding rows used.

    Models may scale rows on their way to layer 0 (Gemma) or add positions (GPT-2); the scale is
    the regression of what arrives on the rows themselves.
    """
    weight = runner.source.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    total = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)
    for ids, arrived, gradient in zip(runner.windows, hidden, gradients, strict=True):
        rows = weight[ids.to(weight.device)]
        if arrived.shape != rows.shape:  # projected (OPT-350m) or multiplied (Gemma 3n) on the way
            return torch.eye(weight.shape[1], device=weight.device)
        scale = (arrived * rows).sum() / rows.square().sum().clamp_min(1e-12)
        flat = gradient.flatten(0, 1) * scale
        total.addmm_(flat.T, flat)
    return total
