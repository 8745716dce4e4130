"""Decomposes every matrix of a model into its stack, layer by layer, and writes it to the journal.

Holds one decoder layer and its statistics at a time; a matrix is written when it is done. Several
workers take a share each. Does not know how one matrix is decomposed; see `decompose`. Does not
measure, see `compression.layer_statistics`, or choose which blocks are worth their bytes, see
`compression.order_stage`.
"""

import logging
import time

import torch

from bitstack.compression.against_rounding import warning
from bitstack.compression.clock import poorest
from bitstack.compression.job import Job
from bitstack.compression.layer_statistics import LayerStatistics, Statistics
from bitstack.compression.matrix_pool import MatrixPool, MatrixTask
from bitstack.compression.work import decompose_operations
from bitstack.machine.allocator import give_back
from bitstack.machine.progress import SHARE, Bar, bar
from bitstack.machine.workers import shares
from bitstack.original.matrix import Matrix

_log = logging.getLogger(__name__)
_BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"


def decompose_matrices(job: Job) -> None:
    """Fills the journal of `job`: one entry a matrix, one for the dense tensors of each layer.

    What is in the journal already is not done again.
    """
    DecomposeStage(job).run()


class DecomposeStage:
    """The share of one worker in decomposing the matrices of a job."""

    def __init__(self, job: Job) -> None:
        self.job, self.recipe, self.journal = job, job.recipe, job.journal
        self.statistics = LayerStatistics(job)
        self.runner = self.statistics.runner
        self._own_keys = self._share()
        self._bar: Bar
        self._late = False  # whether the clock has run out: what is left is done in fewer passes
        self._start = self._todo = self._done = 0.0
        self._pool: MatrixPool

    def run(self) -> None:
        """Decomposes this worker's share and waits for the others."""
        first = self.statistics.calibrate(self._finished)
        self._start = time.perf_counter()
        todo = [m for m in self.job.matrices if self._is_own(m)]
        self._todo = sum(map(self._cost, todo))
        self._bar = bar(
            desc="decompose", show=self.job.progress, total=self._todo, unit=SHARE, bar_format=_BAR
        )
        with self._bar, torch.no_grad(), MatrixPool(self.runner.device) as self._pool:
            for index in range(first, len(self.runner)):
                self._decompose_layer(index)
            self._decompose_outer()
        self.job.workers.wait("stacks")
        self.journal.refresh()
        if self.job.compares and not self.job.workers.rank and (text := warning(self.job)):
            _log.warning(text)

    def _cost(self, matrix: Matrix) -> float:
        """Operations, by which work is shared and the time left is estimated."""
        return decompose_operations(matrix, self.recipe, text=self.job.text is not None)

    def _share(self) -> set[str]:
        """Keys of the journal that this worker writes: neighbours, so that it reads few layers."""
        costs: dict[str, float] = {}
        for index in (*range(len(self.runner)), None):
            inside = {m.name: self._cost(m) for m in self.job.matrices if m.layer == index}
            costs |= inside | {_dense_key(index): 0.0}
        left = {key: cost for key, cost in costs.items() if key not in self.journal}
        workers = self.job.workers
        owners = shares(list(left.values()), workers.count)
        return {key for key, owner in zip(left, owners, strict=True) if owner == workers.rank}

    def _is_own(self, matrix: Matrix) -> bool:
        return matrix.name in self._own_keys

    def _finished(self, layer: int) -> bool:
        """Whether this worker has nothing left to do for a layer."""
        own = any(m.layer == layer and self._is_own(m) for m in self.job.matrices)
        return not own and _dense_key(layer) not in self._own_keys

    def _decompose_layer(self, index: int) -> None:
        matrices = [m for m in self.job.matrices if m.layer == index]
        own = [m for m in matrices if self._is_own(m)]
        keeps_dense = _dense_key(index) in self._own_keys
        if not (own or keeps_dense or self.statistics.rolls):
            return
        with self.runner.layer_loaded(index):
            folds = bool(own) or keeps_dense
            found = self.statistics.of_layer(index, matrices, own, folds)
            self._notice_if_late()
            self._decompose(own, found)
            if keeps_dense:
                self._keep_dense(index, self.runner.layer_parameters[index])

    def _decompose_outer(self) -> None:
        """Decomposes embedding and head, and keeps whatever else stands outside the layers."""
        own = [m for m in self.job.matrices if m.layer is None and self._is_own(m)]
        keeps_dense = _dense_key(None) in self._own_keys
        if not (own or keeps_dense):
            return
        with self.runner.outer_loaded():
            found = self.statistics.of_outer(own)
            give_back()  # the pieces of logits
            self._decompose(own, found)
            if keeps_dense:
                self._keep_dense(None, self.runner.outer_parameters)

    def _task(self, matrix: Matrix, statistics: Statistics) -> MatrixTask:
        weight = matrix.of(self.runner.source.model.get_parameter(matrix.parameter))
        recipe = poorest(self.recipe) if self._late else self.recipe
        return MatrixTask(matrix, recipe.of(matrix.name), weight, *statistics, self.job.compares)

    def _notice_if_late(self) -> None:
        """Finds out whether the matrices that are left take longer than the clock gives."""
        clock = self.job.clock
        if clock is None or self._late or not self._done:
            return
        rate = self._done / (time.perf_counter() - self._start)
        if (self._todo - self._done) / rate > clock.left():
            self._late = True
            clock.cut("the last matrices were decomposed in fewer passes")

    def _decompose(self, matrices: list[Matrix], found: list[Statistics]) -> None:
        """Decomposes matrices under their statistics and writes them to the journal."""
        tasks = [self._task(*pair) for pair in zip(matrices, found, strict=True)]
        for result in self._pool.run(tasks):
            matrix, done = result.matrix, result.done
            tensors = {f"{matrix.name}.{name}": t.cpu() for name, t in done.tensors.items()}
            self.journal.put(matrix.name, tensors, result.note())
            self._done += self._cost(matrix)
            self._bar.update(self._cost(matrix))
            _log.info(
                "%s: %d x %d, %d blocks, relative error %.3g, %.1f s", matrix.name, matrix.rows,
                matrix.columns, done.spec.levels, done.relative_errors[-1], result.seconds,
            )  # fmt: skip

    def _keep_dense(self, index: int | None, names: list[str]) -> None:
        """Writes the dense parameters of one layer, in their dtypes, to the journal."""
        dtypes = {d.name: d.dtype for d in self.job.dense if d.persistent}
        model = self.runner.source.model
        tensors = {n: model.get_parameter(n).to(dtypes[n]).cpu() for n in names if n in dtypes}
        self.journal.put(_dense_key(index), tensors, {})


def _dense_key(index: int | None) -> str:
    """Key of the dense tensors of a layer, or of the parts outside all layers (None)."""
    return "dense-outer" if index is None else f"dense-{index:06d}"
