"""Decomposes several matrices at once, each on one thread of the CPU.

The matrices of a layer are small beside what keeps several cores busy in one product, and most
steps are no products. So matrices of one block run side by side; a larger one alone, its blocks of
rows side by side. What a matrix gets does not depend on what runs beside it. On a GPU, and with one
thread, they run one after another. Does not know how a matrix is decomposed; see `decompose`.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitstack.decompose import Decomposed, decompose
from bitstack.decompose.rounding import rounding_error
from bitstack.decompose.rows import blocks_of
from bitstack.kernels.threads import set_openmp
from bitstack.original.matrix import Matrix
from bitstack.recipe import Recipe


@dataclass(frozen=True)
class MatrixTask:
    """One matrix to be decomposed: W [m, n], E[x xᵀ] [n, n] and row weights [m], or None."""

    matrix: Matrix
    recipe: Recipe
    weight: Tensor
    moment: Tensor | None
    row_weights: Tensor | None
    compares: bool  # with rounding

    def run(self, map_blocks: Any = map) -> "MatrixResult":
        start = time.perf_counter()
        with torch.no_grad():
            done = decompose(
                self.weight, self.recipe, moment=self.moment, row_weights=self.row_weights,
                map_blocks=map_blocks,
            )  # fmt: skip
            bits = range(1, self.recipe.blocks + 1) if self.compares else ()
            rounded = [rounding_error(self.weight, b) for b in bits]
        return MatrixResult(
            self.matrix, done, self.row_weights, rounded, time.perf_counter() - start
        )


@dataclass(frozen=True)
class MatrixResult:
    """A decomposed matrix, and the squared errors of rounding it to 1, 2, … bits, if asked for."""

    matrix: Matrix
    done: Decomposed
    row_weights: Tensor | None
    rounded: list[float]
    seconds: float

    def note(self) -> dict[str, Any]:
        """Returns what the journal keeps beside the tensors."""
        done, weights = self.done, self.row_weights
        curvature = torch.ones(self.matrix.rows) if weights is None else weights.cpu().float()
        note = {
            "levels": done.spec.levels,
            "rank": done.spec.rank,
            "rotation": done.spec.rotation,
            "outliers": done.spec.outliers,
            "errors": done.relative_errors,
            # Second order: half the curvature times the squared error, nats per token.
            "losses": (done.row_errors.cpu() @ curvature / 2).tolist(),
        }
        return note | ({"rounded": self.rounded} if self.rounded else {})


class MatrixPool(AbstractContextManager["MatrixPool"]):
    """Threads, as many as torch has, that decompose matrices on `device`."""

    def __init__(self, device: str) -> None:
        openmp, count = set_openmp(), torch.get_num_threads()
        self._threads = None
        if device == "cpu" and count > 1 and openmp is not None:
            self._threads = ThreadPoolExecutor(count, initializer=openmp, initargs=(1,))

    def __exit__(self, *_: object) -> None:
        if self._threads:
            self._threads.shutdown(cancel_futures=True)

    def run(self, tasks: list[MatrixTask]) -> Iterator[MatrixResult]:
        """Yields the results of `tasks` as they come."""
        if self._threads is None:
            yield from (task.run() for task in tasks)
            return
        large = [task for task in tasks if blocks_of(task.weight) > 1]
        small = sorted(
            (task for task in tasks if blocks_of(task.weight) == 1),
            key=lambda task: -task.weight.numel() * task.weight.shape[1],
        )  # the dearest first, so that the threads end at about the same time
        yield from (future.result() for future in as_completed(
            [self._threads.submit(task.run) for task in small]
        ))  # fmt: skip
        yield from (task.run(self._threads.map) for task in large)
