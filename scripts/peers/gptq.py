"""GPTQ (arXiv 2210.17323), small and at its best: columns in the order of falling curvature with
groups fixed beforehand, clipping searched under the curvature, layers calibrated one after another
on inputs that come through what is quantised already.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bitstack.original.matrices import Matrix, find_layers
from peers.bench import Bench, Clock, Row
from peers.grid import best_range, grouped_bytes

BITS, GROUPS = (2, 3, 4, 8), (64, 128)
DAMPING = 0.01  # of the mean diagonal
BATCH = 8  # windows of a forward pass


def rows(bench: Bench, done: Callable[[str, str], bool]) -> Iterator[Row]:
    for group in GROUPS:
        for bits in BITS:
            method, setting = f"gptq g{group}", f"{bits} bits"
            if done(method, setting):
                continue
            clock, model = Clock(), bench.fresh()
            weights = quantise_model(model, bench, bits, group)
            size = sum(grouped_bytes(m.rows, m.columns, bits, group) for m in bench.linear)
            yield bench.row(method, setting, weights, size, clock.seconds)


def quantise(weight: Tensor, moment: Tensor, bits: int, group: int) -> Tensor:
    """`weight` [rows, n] quantised under the second moment E[x xᵀ] [n, n] of its inputs."""
    order = moment.diagonal().argsort(descending=True)
    felt = moment.diagonal() + DAMPING * moment.diagonal().mean()
    grids = [
        best_range(part, bits, some)
        for part, some in zip(weight.split(group, dim=1), felt.split(group), strict=True)
    ]
    upper = feedback(moment[order][:, order])
    left, result = weight[:, order].clone(), torch.empty_like(weight)
    for step, column in enumerate(order.tolist()):
        value = grids[column // group].round(left[:, step : step + 1])
        error = (left[:, step : step + 1] - value) / upper[step, step]
        left[:, step:] -= error * upper[step, step:]
        result[:, column] = value[:, 0]
    return result


def feedback(moment: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped inverse: what one column's error asks of the rest."""
    damped = moment.double()
    mean = damped.diagonal().mean().clamp_min(1e-30)
    damped = damped + DAMPING * mean * torch.eye(len(moment), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


@torch.no_grad()
def quantise_model(model: Any, bench: Bench, bits: int, group: int) -> dict[str, Tensor]:
    """The dequantised linear weights by parameter; `model` is quantised on the way."""
    name, layers = find_layers(model)
    hidden, calls = _enter(model, layers[0], bench.windows)
    done: dict[str, Tensor] = {}
    for index, layer in enumerate(tqdm(layers, desc=f"gptq g{group} {bits} bits", disable=None)):
        inside = [m for m in bench.linear if m.parameter.startswith(f"{name}.{index}.")]
        for fed in _by_input(model, layer, inside, hidden[0], calls[0]):
            moment = _moment(model, layer, fed[0], hidden, calls)
            for matrix in fed:
                parameter = model.get_parameter(matrix.parameter)
                value = quantise(matrix.of(parameter), moment, bits, group)
                parameter.copy_(value.T if matrix.transposed else value)
                done[matrix.parameter] = parameter.clone()
        hidden = [_step(layer, h, call) for h, call in zip(hidden, calls, strict=True)]
    return done


class _Stop(Exception):
    """Ends a forward pass early."""


def _enter(model: Any, first: nn.Module, windows: Tensor) -> tuple[list[Tensor], list[Any]]:
    """What the first layer is called with: hidden states, and all else, one entry a batch."""
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
    """Matrices fed by one tensor together (q, k, v), in the order in which they are used."""
    seen: dict[int, list[Matrix]] = {}
    kept = []  # or an id could be another tensor's

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
    """E[x xᵀ] of the matrix's input over all windows, fp32 [n, n]."""
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
