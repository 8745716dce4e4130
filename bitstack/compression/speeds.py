"""Predicts the seconds of a run before it starts, from its work and the speeds of this machine.

The speeds are measured, on one small matrix, one product and one pass over activations, in about a
second. Does not count the work; see `compression.work`.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import silu

from bitstack.compression.matrix_pool import MatrixPool, MatrixTask
from bitstack.compression.work import (
    Work,
    calibration_work,
    decompose_operations,
    order_work,
    tuning_work,
)
from bitstack.machine.device import product_dtype
from bitstack.original.matrix import Matrix
from bitstack.original.model_limits import positions
from bitstack.original.source import Source
from bitstack.recipe import Recipe

_PROBE = (256, 768)  # rows and columns of the matrix that is decomposed
_PRODUCT = 1024  # rows and columns of the matrices that are multiplied
_ACTIVATIONS = (2048, 1536)  # tokens and width: more than a cache holds
_TRIES = 6  # of a product or a pass: the first ones wait for memory


class Speeds(NamedTuple):
    """How much of each kind of `compression.work.Work` this machine does in a second."""

    decomposing: float
    running: float
    products: float
    elementwise: float

    def seconds(self, work: Work) -> float:
        """Returns how long it takes."""
        return sum(amount / speed for amount, speed in zip(work, self, strict=True))


def measure_speed(recipe: Recipe, device: str, *, text: bool) -> Speeds:
    """Measures each speed once."""
    gate, up = (torch.ones(_ACTIVATIONS, device=device) for _ in range(2))
    return Speeds(
        decomposing=_decomposing(recipe, device, text=text),
        running=_products(device, product_dtype(device)),
        products=_products(device, torch.float32),
        elementwise=gate.numel() / _best(lambda: silu(gate).mul_(up)),
    )


def _products(device: str, dtype: torch.dtype) -> float:
    factor = torch.ones(_PRODUCT, _PRODUCT, device=device, dtype=dtype)
    return 2 * _PRODUCT**3 / _best(lambda: factor @ factor)


def _decomposing(recipe: Recipe, device: str, *, text: bool) -> float:
    rows, columns = _PROBE
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(device)
    # The trials of forms take some rows: next to nothing of a large matrix, most of a small one.
    small = recipe.model_copy(update={"overrides": {}, "rotation": "always", "outliers": "never"})
    probe = Matrix("probe", "probe", "probe", "linear", rows, columns)
    moment = weight.T @ weight if text else None
    tasks = [MatrixTask(probe, small, weight, moment, None, False)] * torch.get_num_threads()
    with MatrixPool(device) as pool:
        first = MatrixTask(probe, small, weight[:8, :8], None, None, False)
        list(pool.run([first] * len(tasks)))  # the first is slow
        seconds = _seconds(lambda: list(pool.run(tasks)))
    return len(tasks) * decompose_operations(probe, small, text=text) / seconds


def _best(work: Callable[[], object]) -> float:
    return min(_seconds(work) for _ in range(_TRIES))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def predict_seconds(
    source: Source, matrices: list[Matrix], recipe: Recipe, tokens: int, batch: int, speeds: Speeds
) -> tuple[float, float, float]:
    """Returns the seconds of calibrating, of decomposing, and of order and tuning, by one worker.

    Args:
        tokens: of the calibration; 0 without text.
        batch: tokens of one pass; 0 without text.
    """
    operations = sum(decompose_operations(m, recipe, text=bool(tokens)) for m in matrices)
    decomposing = speeds.seconds(Work(decomposing=operations))
    if not tokens:
        return 0.0, decomposing, 0.0
    length = min(batch, recipe.seq_len, positions(source.model) or batch)
    calibrating = speeds.seconds(calibration_work(source, matrices, tokens, batch, length))
    measured = order_work(source, matrices, recipe, length)
    finishing = speeds.seconds(tuning_work(source, recipe)) + speeds.seconds(measured)
    return calibrating, decomposing, finishing
