"""Decomposes every matrix of a model into its stack, layer by layer, and writes it to the journal.

Holds one decoder layer and its statistics at a time; a matrix is written when it is done. Several
workers take a share each. Does not know how one matrix is decomposed; see `decompose`. Does not
choose which blocks are worth their bytes; see `compression.order_stage`.
"""

import logging
import time
from functools import cached_property

import torch
from torch import Tensor
from tqdm import tqdm

from bitstack.calibration.fisher import FisherInformation, measure_fisher, token_shares
from bitstack.calibration.hidden_states import spill_states, state_key
from bitstack.calibration.observers import InputObserver, Moments, observed
from bitstack.calibration.spill import Spill
from bitstack.compression.against_rounding import warning
from bitstack.compression.clock import poorest
from bitstack.compression.column_scaling import fold_scales, scaled_moment
from bitstack.compression.costs import decompose_operations
from bitstack.compression.job import Job
from bitstack.compression.matrix_pool import MatrixPool, MatrixTask
from bitstack.compression.matrix_statistics import row_weights, second_moment
from bitstack.machine.allocator import give_back
from bitstack.machine.device import product_dtype
from bitstack.machine.workers import shares
from bitstack.original.matrices import Matrix

_log = logging.getLogger(__name__)
_FISHER = "~fisher"  # key of the journal; no matrix has this name
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
        # Statistics need no more digits; the published method is kept to the letter.
        exact = self.recipe.method == "signs"
        dtype = torch.float32 if exact else product_dtype(job.device)
        self.runner = job.runner(dtype=dtype)  # without windows the stage works free of data
        self.fisher: FisherInformation | None = None
        self._own_keys = self._share()
        self._first_layer = 0  # where an interrupted run goes on
        self._bar: tqdm
        self._late = False  # whether the clock has run out: what is left is done in fewer passes
        self._start = self._todo = self._done = 0.0
        self._pool: MatrixPool

    def run(self) -> None:
        """Decomposes this worker's share and waits for the others."""
        self._calibrate()
        self._start = time.perf_counter()
        todo = [m for m in self.job.matrices if self._is_own(m)]
        self._todo = sum(map(self._cost, todo))
        self._bar = tqdm(
            total=self._todo, desc="decompose", bar_format=_BAR,
            disable=not self.job.progress or None,
        )  # fmt: skip
        with self._bar, torch.no_grad(), MatrixPool(self.runner.device) as self._pool:
            for index in range(self._first_layer, len(self.runner)):
                self._decompose_layer(index)
            self._decompose_outer()
        self.job.workers.wait("stacks")
        self.journal.refresh()
        if self.job.compares and not self.job.workers.rank and (text := warning(self.job)):
            _log.warning(text)

    def _cost(self, matrix: Matrix) -> float:
        """Operations, by which work is shared and the time left is estimated."""
        return decompose_operations(matrix, self.recipe, text=self.job.text is not None)

    @cached_property
    def _vocabulary(self) -> int:
        """Rows of the embedding."""
        weight = self.runner.source.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return len(weight)

    @cached_property
    def _rolls(self) -> bool:
        """Whether hidden states are run on through every layer as the stage goes.

        The published method needs no gradients, so no pass has left the states in files before.
        """
        return bool(self.runner.windows) and self.recipe.method == "signs"

    @cached_property
    def _spill(self) -> Spill:
        own = f"-{self.job.workers.rank}" if self._rolls else ""
        return Spill(self.journal.path / f"spill{own}")

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

    def _calibrate(self) -> None:
        if not self.runner.windows:
            return
        with torch.no_grad(), self.runner.outer_loaded():
            self.runner.record_calls()
            self._first_layer = self._resumable_layer() if self._rolls else 0
            for batch in range(len(self.runner.windows) if self._rolls else 0):
                if not self._first_layer:
                    self._spill.put(state_key(0, batch), [self.runner.embed_batch(batch)])
        if not self._rolls:
            self.fisher = self._measure_or_read_fisher()

    def _resumable_layer(self) -> int:
        """The highest layer that states are rolled to and below which nothing is left to do.

        0 for a run that begins.
        """
        unfinished = {m.layer for m in self.job.matrices if self._is_own(m)}
        batches = range(len(self.runner.windows))
        for index in range(len(self.runner), 0, -1):
            below = any(i in unfinished or _dense_key(i) in self._own_keys for i in range(index))
            if not below and all(self._spill.has(state_key(index, b)) for b in batches):
                return index
        return 0

    def _measure_or_read_fisher(self) -> FisherInformation:
        """The Fisher information, from the journal if it is there; states are in files then too."""
        workers = self.job.workers
        if _FISHER in self.journal:
            own = [*range(len(self.runner.windows))][workers.rank :: workers.count]
            spill_states(self.runner, self._spill, own)  # does nothing unless some were lost
            workers.wait("states")
        else:
            fisher = measure_fisher(
                self.runner, self.job.matrices, self._spill, seed=self.recipe.seed, workers=workers
            )
            if workers.rank == 0:
                tensors = {f"~{name}": rows for name, rows in fisher.rows.items()}
                tensors["~"] = fisher.embedding
                self.journal.put(_FISHER, tensors, {"rows": [*fisher.rows]})
            workers.wait("fisher kept")
            self.journal.refresh()
        names = self.journal.notes[_FISHER]["rows"]
        rows = {name: self.journal.get(f"~{name}").to(self.runner.device) for name in names}
        return FisherInformation(rows, self.journal.get("~").to(self.runner.device))

    def _decompose_layer(self, index: int) -> None:
        matrices = [m for m in self.job.matrices if m.layer == index]
        own = [m for m in matrices if self._is_own(m)]
        keeps_dense = _dense_key(index) in self._own_keys
        if not (own or keeps_dense or self._rolls):
            return
        with self.runner.layer_loaded(index):
            moments, scales = self._observe(index, matrices, own)
            tasks = []
            self._notice_if_late()
            for matrix in own:
                moment = scaled_moment(second_moment(matrix, moments), scales.get(matrix.name))
                tasks.append(self._task(matrix, moment, row_weights(matrix, self.fisher, moments)))
            self._decompose(tasks)
            if keeps_dense:
                self._keep_dense(index, self.runner.layer_parameters[index])

    def _observe(
        self, index: int, matrices: list[Matrix], own: list[Matrix]
    ) -> tuple[dict[str, Moments], dict[str, Tensor]]:
        """Moments of the inputs of `own`; where columns are scaled, their scales, folded in."""
        folds = (
            self._rolls
            and self.recipe.column_scaling
            and (own or _dense_key(index) in self._own_keys)
        )
        # An expert that no token reaches takes the moments of its siblings: all are observed.
        parameters = {m.parameter for m in (matrices if folds else own)}
        observer = InputObserver()
        if self._rolls or own:
            watched = [m for m in matrices if m.parameter in parameters]
            with observed(self.runner.source.model, watched, observer):
                for batch in range(len(self.runner.windows)):
                    self._run_batch(index, batch)
                    observer.end_batch()
        if not folds:
            return observer.moments, {}
        first = self._state(index, 0)
        model, moments = self.runner.source.model, observer.moments
        scales = fold_scales(model, matrices, moments, lambda: self.runner.run_layer(index, first))
        return moments, scales

    def _state(self, index: int, batch: int) -> Tensor:
        return self._spill.get(state_key(index, batch))[0].to(self.runner.device)

    def _run_batch(self, index: int, batch: int) -> None:
        after = self.runner.run_layer(index, self._state(index, batch))
        if self._rolls:
            self._spill.put(state_key(index + 1, batch), [after])
            self._spill.remove(state_key(index - 1, batch))

    def _decompose_outer(self) -> None:
        """Decomposes embedding and head, and keeps whatever else stands outside the layers."""
        own = [m for m in self.job.matrices if m.layer is None and self._is_own(m)]
        if not (own or _dense_key(None) in self._own_keys):
            return
        observer = InputObserver()
        with self.runner.outer_loaded():
            with observed(self.runner.source.model, own, observer):
                for batch in range(len(self.runner.windows) if own else 0):
                    last = self._state(len(self.runner), batch)
                    for _ in self.runner.logits_by_part(batch, last):
                        observer.end_batch()
            give_back()  # the pieces of logits
            tasks = []
            for matrix in own:
                moment = second_moment(matrix, observer.moments)
                weights = row_weights(matrix, self.fisher, observer.moments)
                if matrix.kind == "embedding" and self.fisher:
                    shares = token_shares(self.runner.windows, self._vocabulary)[matrix.own_rows]
                    moment, weights = self.fisher.of_embedding(shares, moment, weights)
                tasks.append(self._task(matrix, moment, weights))
            self._decompose(tasks)
            if _dense_key(None) in self._own_keys:
                self._keep_dense(None, self.runner.outer_parameters)

    def _task(self, matrix: Matrix, moment: Tensor | None, weights: Tensor | None) -> MatrixTask:
        weight = matrix.of(self.runner.source.model.get_parameter(matrix.parameter))
        recipe = poorest(self.recipe) if self._late else self.recipe
        return MatrixTask(
            matrix, recipe.of(matrix.name), weight, moment, weights, self.job.compares
        )

    def _notice_if_late(self) -> None:
        """Finds out whether the matrices that are left take longer than the clock gives."""
        clock = self.job.clock
        if clock is None or self._late or not self._done:
            return
        rate = self._done / (time.perf_counter() - self._start)
        if (self._todo - self._done) / rate > clock.left():
            self._late = True
            clock.cut("the last matrices were decomposed in fewer passes")

    def _decompose(self, tasks: list[MatrixTask]) -> None:
        """Decomposes matrices under E[x xᵀ] and row weights, and writes them to the journal."""
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
