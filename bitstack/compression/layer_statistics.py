"""Gives the statistics under which the matrices of one layer are decomposed: the second moments of
their inputs, and the Fisher information of their outputs.

Holds one decoder layer and its moments at a time; hidden states lie in files. Does not measure by
itself, see `calibration`, and does not decompose, see `compression.decompose_stage`.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from bitstack.calibration.fisher import FisherInformation, measure_fisher, token_shares
from bitstack.calibration.hidden_states import spill_states, state_key
from bitstack.calibration.observers import InputObserver, Moments, observed
from bitstack.calibration.spill import Spill
from bitstack.compression.column_scaling import fold_scales, scaled_moment
from bitstack.compression.job import Job
from bitstack.compression.matrix_statistics import row_weights, second_moment
from bitstack.machine.device import product_dtype
from bitstack.original.matrix import Matrix

_FISHER = "~fisher"  # key of the journal; no matrix has this name

Statistics = tuple[Tensor | None, Tensor | None]  # E[x xᵀ] [n, n] and E[g²] [m]; None without text


class LayerStatistics:
    """The statistics of a job, layer after layer. Without windows there are none."""

    def __init__(self, job: Job) -> None:
        self.job, self.journal, self.recipe = job, job.journal, job.recipe
        # Statistics need no more digits; the published method is kept to the letter.
        exact = self.recipe.method == "signs"
        dtype = torch.float32 if exact else product_dtype(job.device)
        self.runner = job.runner(dtype=dtype)  # without windows the stage works free of data
        self.fisher: FisherInformation | None = None

    @cached_property
    def rolls(self) -> bool:
        """Whether hidden states are run on through every layer as the stage goes.

        The published method needs no gradients, so no pass has left the states in files before.
        """
        return bool(self.runner.windows) and self.recipe.method == "signs"

    @cached_property
    def _spill(self) -> Spill:
        own = f"-{self.job.workers.rank}" if self.rolls else ""
        return Spill(self.journal.path / f"spill{own}")

    @cached_property
    def _vocabulary(self) -> int:
        """Rows of the embedding."""
        weight = self.runner.source.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return len(weight)

    def calibrate(self, finished: Callable[[int], bool]) -> int:
        """Does what comes before the first layer; returns the layer at which the stage begins.

        Args:
            finished: Whether nothing is left to do for a layer; a rolled run goes on above.
        """
        if not self.runner.windows:
            return 0
        first = 0
        with torch.no_grad(), self.runner.outer_loaded():
            self.runner.record_calls()
            if self.rolls:
                first = self._resumable_layer(finished)
                for batch in range(0 if first else len(self.runner.windows)):
                    self._spill.put(state_key(0, batch), [self.runner.embed_batch(batch)])
        if not self.rolls:
            self.fisher = self._measure_or_read_fisher()
        return first

    def of_layer(
        self, index: int, matrices: list[Matrix], own: list[Matrix], folds: bool
    ) -> list[Statistics]:
        """Returns the statistics of each of `own`, of the loaded layer `index`.

        Args:
            matrices: All of the layer.
            folds: Whether the layer's columns may be scaled in place, if the recipe scales them.
        """
        folds = folds and self.rolls and self.recipe.column_scaling
        # An expert that no token reaches takes the moments of its siblings: all are observed.
        parameters = {m.parameter for m in (matrices if folds else own)}
        watched = [m for m in matrices if m.parameter in parameters]
        moments = self._observe(index, watched) if self.rolls or own else {}
        scales: dict[str, Tensor] = {}
        if folds:
            first, model = self._state(index, 0), self.runner.source.model
            scales = fold_scales(
                model, matrices, moments, lambda: self.runner.run_layer(index, first)
            )
        found = []
        for matrix in own:
            moment = scaled_moment(second_moment(matrix, moments), scales.get(matrix.name))
            found.append((moment, row_weights(matrix, self.fisher, moments)))
        return found

    def of_outer(self, own: list[Matrix]) -> list[Statistics]:
        """Returns the statistics of each of `own`, of the loaded parts outside all layers."""
        seen = frozenset(m.name for m in own if m.kind != "embedding" or m.tied)
        observer = InputObserver(until=seen)
        with observed(self.runner.source.model, own, observer):
            for batch in range(len(self.runner.windows) if seen else 0):
                last = self._state(len(self.runner), batch)
                for _ in self.runner.logits_by_part(batch, last):
                    observer.end_batch()
        return [self._of_outer_matrix(matrix, observer.moments) for matrix in own]

    def _of_outer_matrix(self, matrix: Matrix, moments: dict[str, Moments]) -> Statistics:
        moment = second_moment(matrix, moments)
        weights = row_weights(matrix, self.fisher, moments)
        if matrix.kind != "embedding" or not self.fisher:
            return moment, weights
        shares = token_shares(self.runner.windows, self._vocabulary)[matrix.own_rows]
        return self.fisher.of_embedding(shares, moment, weights)

    def _observe(self, index: int, watched: list[Matrix]) -> dict[str, Moments]:
        """Runs all batches through the loaded layer `index`."""
        observer = InputObserver()
        with observed(self.runner.source.model, watched, observer):
            for batch in range(len(self.runner.windows)):
                after = self.runner.run_layer(index, self._state(index, batch))
                if self.rolls:
                    self._spill.put(state_key(index + 1, batch), [after])
                    self._spill.remove(state_key(index - 1, batch))
                observer.end_batch()
        return observer.moments

    def _state(self, index: int, batch: int) -> Tensor:
        return self._spill.get(state_key(index, batch))[0].to(self.runner.device)

    def _resumable_layer(self, finished: Callable[[int], bool]) -> int:
        """The highest layer that states are rolled to and below which nothing is left to do.

        0 for a run that begins.
        """
        batches = range(len(self.runner.windows))
        for index in range(len(self.runner), 0, -1):
            rolled = all(self._spill.has(state_key(index, batch)) for batch in batches)
            if rolled and all(map(finished, range(index))):
                return index
        return 0

    def _measure_or_read_fisher(self) -> FisherInformation:
        """The Fisher information, from the journal if it is there; states are in files then too."""
        workers = self.job.workers
        if _FISHER in self.journal:
            own = [*range(len(self.runner.windows))][workers.rank :: workers.count]
            # Does nothing unless some were lost.
            spill_states(self.runner, self._spill, own, show=self.job.progress)
            workers.wait("states")
        else:
            fisher = measure_fisher(
                self.runner,
                self.job.matrices,
                self._spill,
                seed=self.recipe.seed,
                workers=workers,
                show=self.job.progress,
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
