"""GPTQ (arXiv 2210.17323), our own small implementation with all options that help it.

Columns are quantised in the order of falling curvature (the diagonal of the second moment of the
inputs), in groups fixed beforehand, with clipping searched under that curvature. Layers are
calibrated one after another, on inputs that come through the layers quantised already.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bitstack.original.decoder_layers import find_layers
from bitstack.original.matrix import Matrix
from peers import embedding
from peers.bench import Bench, Clock, Row
from peers.grid import best_range, grouped_bytes
from peers.loops import Done, unmeasured

BITS, GROUPS = (2, 3, 4, 8), (64, 128)
DAMPING = 0.01  # of the mean diagonal
BATCH = 8  # windows of a forward pass


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    for method, setting, bits, group in unmeasured(bench, "gptq g{}", BITS, GROUPS, done):
        clock, model = Clock(), bench.fresh()
        weights = quantise_model(model, bench, bits, group)
        size = sum(grouped_bytes(m.rows, m.columns, bits, group) for m in bench.linear)
        linear = embedding.Quantised(method, setting, bits, weights, size, clock.seconds)
        yield from embedding.rows(bench, done, linear)


def quantise(weight: Tensor, moment: Tensor, bits: int, group: int) -> Tensor:
    """Returns `weight` [rows, n] quantised under the second moment E[x xᵀ] [n, n] of its inputs."""
    grids = [
        best_range(part, bits, own)
        for part, own in zip(
            weight.split(group, dim=1), column_weights(moment).split(group), strict=True
        )
    ]
    result = torch.empty_like(weight)

    def one(column: int, x: Tensor) -> Tensor:
        value = grids[column // group].round(x)
        result[:, column] = value[:, 0]
        return x - value

    feed_back(weight, moment, one)
    return result


def column_weights(moment: Tensor) -> Tensor:
    """Returns the weight [n] of each column where clipping is searched: the damped diagonal."""
    return moment.diagonal() + DAMPING * moment.diagonal().mean()


def feed_back(weight: Tensor, moment: Tensor, one: Callable[[int, Tensor], Tensor]) -> None:
    """Quantises the columns in the order of falling curvature; later ones make up for errors.

    Args:
        weight: [rows, n].
        moment: E[x xᵀ] [n, n] of its inputs.
        one: Quantises a column: from its index and values [rows, 1], as far as they have moved, to
            the error [rows, 1] that the later columns make up for.
    """
    order = moment.diagonal().argsort(descending=True)
    upper, left = feedback(moment[order][:, order]), weight[:, order].clone()
    for step, column in enumerate(order.tolist()):
        error = one(column, left[:, step : step + 1]) / upper[step, step]
        left[:, step:] -= error * upper[step, step:]


def feedback(moment: Tensor) -> Tensor:
    """Returns the upper Cholesky factor of the inverse of the damped moment.

    Row i, over its diagonal, is how far the later columns move to make up for an error of column i.
    """
    damped = moment.double()
    mean = damped.diagonal().mean().clamp_min(1e-30)
    damped = damped + DAMPING * mean * torch.eye(len(moment), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def quantise_model(model: Any, bench: Bench, bits: int, group: int) -> dict[str, Tensor]:
    """Quantises `model` in place; returns the dequantised linear weights by parameter."""
    weights: dict[str, Tensor] = {}

    def one(matrix: Matrix, weight: Tensor, moment: Tensor) -> Tensor:
        value = quantise(weight, moment, bits, group)
        weights[matrix.parameter] = value.T if matrix.transposed else value
        return value

    layer_by_layer(model, bench, f"gptq g{group} {bits} bits", one)
    return weights


@torch.no_grad()
def layer_by_layer(
    model: Any, bench: Bench, label: str, one: Callable[[Matrix, Tensor, Tensor], Tensor]
) -> None:
    """Replaces every linear matrix of `model`, on inputs that come through those before it.

    Args:
        model: A copy of the original, which is changed.
        bench: The opened model, with the calibration text.
        label: Name of the progress bar.
        one: From a matrix, its weight [rows, n] and the second moment [n, n] of its inputs to the
            weight that takes its place.
    """
    name, layers = find_layers(model)
    hidden, calls = _enter(model, layers[0], bench.windows)
    for index, layer in enumerate(tqdm(layers, desc=label, disable=None)):
        inside = [m for m in bench.linear if m.parameter.startswith(f"{name}.{index}.")]
        for matrices in _by_input(model, layer, inside, hidden[0], calls[0]):
            moment = _moment(model, layer, matrices[0], hidden, calls)
            for matrix in matrices:
                parameter = model.get_parameter(matrix.parameter)
                value = one(matrix, matrix.of(parameter), moment)
                parameter.copy_(value.T if matrix.transposed else value)
        hidden = [_step(layer, h, call) for h, call in zip(hidden, calls, strict=True)]


class _Stop(Exception):
    """Ends a forward pass early."""


def _enter(model: Any, first: nn.Module, windows: Tensor) -> tuple[list[Tensor], list[Any]]:
    """Returns what the first layer is called with, for each batch: hidden states, and the rest."""
    hidden, calls = [], []

    def catch(_: nn.Module, args: Any, kwargs: Any) -> None:
        hidden.append(args[0])
        calls.append((args[1:], kwargs))
        raise _Stop

    handle = first.register_forward_pre_hook(catch, with_kwargs=True)
    for ids in windows.split(BATCH):
        with suppress(_Stop):
            model(ids, use_cache=False)
    handle.remove()
    return hidden, calls


def _step(layer: nn.Module, hidden: Tensor, call: Any) -> Tensor:
    output = layer(hidden, *call[0], **call[1])
    return output[0] if isinstance(output, tuple) else output


def _by_input(
    model: Any, layer: nn.Module, matrices: list[Matrix], hidden: Tensor, call: Any
) -> list[list[Matrix]]:
    """Returns the matrices in groups with the same input (q, k, v), in the order of their use."""
    seen: dict[int, list[Matrix]] = {}
    kept = []  # keeps inputs alive: the id of a freed tensor could return as another's

    def note(matrix: Matrix) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any) -> None:
            kept.append(args[0])
            seen.setdefault(id(args[0]), []).append(matrix)

        return hook

    modules = [model.get_submodule(m.module) for m in matrices]
    pairs = zip(modules, matrices, strict=True)
    handles = [module.register_forward_pre_hook(note(matrix)) for module, matrix in pairs]
    _step(layer, hidden, call)
    for handle in handles:
        handle.remove()
    return list(seen.values())


def _moment(
    model: Any, layer: nn.Module, matrix: Matrix, hidden: list[Tensor], calls: list[Any]
) -> Tensor:
    """Returns E[x xᵀ] of the input of `matrix` over all windows, fp32 [n, n]."""
    total, tokens = torch.zeros(matrix.columns, matrix.columns), 0

    def add(_: nn.Module, args: Any) -> None:
        nonlocal tokens
        flat = args[0].reshape(-1, matrix.columns)
        total.addmm_(flat.T, flat)
        tokens += len(flat)
        raise _Stop

    handle = model.get_submodule(matrix.module).register_forward_pre_hook(add)
    for value, call in zip(hidden, calls, strict=True):
        with suppress(_Stop):
            _step(layer, value, call)
    handle.remove()
    return total / tokens
