"""Every matrix of a model into its stack, layer by layer, into the journal.

Holds one decoder layer and what calibration knows of it; a matrix is written when it is done.
Several workers take a share each. How one matrix is decomposed is `decompose`'s business, what the
stacks cost and earn is settled later.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from tqdm import tqdm

from bitstack.calibration.fisher import Sensitivity, sensitivity, state
from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.observers import InputObserver, Moments, observed
from bitstack.calibration.spill import Spill
from bitstack.compression.column_scaling import fold_scales, scaled_moment
from bitstack.container.journal import Journal
from bitstack.decompose import decompose
from bitstack.machine.workers import Workers, shares
from bitstack.original.matrices import Dense, Matrix
from bitstack.recipe import Recipe

_log = logging.getLogger(__name__)
_FELT = "~sensitivity"  # the journal's entry; no matrix is called so
_BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"


@dataclass
class Stacker:
    """Decomposes `matrices` of the runner's model; without windows it works free of data.

    `cost` of a matrix is what it takes, in any unit: shares and the time left are made by it.
    """

    runner: LayerRunner
    matrices: list[Matrix]
    dense: list[Dense]
    recipe: Recipe
    journal: Journal
    progress: bool = False
    workers: Workers = field(default_factory=Workers)
    cost: Callable[[Matrix], float] = lambda matrix: matrix.weights * matrix.columns
    sensitivity: Sensitivity | None = None
    _mine: set[str] = field(init=False)  # keys of the journal that this worker writes
    _bar: tqdm = field(init=False)

    def run(self) -> None:
        """Fill the journal: one entry a matrix, one for the dense tensors of each layer."""
        self._mine = self._share()
        self._calibrate()
        todo = [m for m in self.matrices if self._is_mine(m)]
        self._bar = tqdm(
            total=sum(map(self.cost, todo)), desc="decompose", bar_format=_BAR,
            disable=not self.progress or None,
        )  # fmt: skip
        with self._bar, torch.no_grad():
            for index in range(len(self.runner)):
                self._layer(index)
            self._outer()
        self.workers.wait("stacks")
        self.journal.refresh()

    @cached_property
    def _rolls(self) -> bool:
        """Must every layer be run, because no pass before has left the states in files?"""
        return bool(self.runner.windows) and self.recipe.method == "signs"

    @cached_property
    def _spill(self) -> Spill:
        own = f"-{self.workers.rank}" if self._rolls else ""
        return Spill(self.journal.path / f"spill{own}")

    def _share(self) -> set[str]:
        """What is still to be done by this worker: neighbours, so that it reads few layers."""
        items: dict[str, float] = {}
        for index in (*range(len(self.runner)), None):
            inside = {m.name: self.cost(m) for m in self.matrices if m.layer == index}
            items |= inside | {_dense_key(index): 0.0}
        left = {key: cost for key, cost in items.items() if key not in self.journal}
        owners = shares(list(left.values()), self.workers.count)
        return {k for k, owner in zip(left, owners, strict=True) if owner == self.workers.rank}

    def _calibrate(self) -> None:
        if not self.runner.windows:
            return
        with torch.no_grad(), self.runner.outer():
            self.runner.learn()
            for batch in range(len(self.runner.windows) if self._rolls else 0):
                self._spill.put(state(0, batch), [self.runner.enter(batch)])
        if not self._rolls:
            self.sensitivity = self._sensitivity()

    def _sensitivity(self) -> Sensitivity:
        """Measured, or found in the journal, with the states of all layers beside it."""
        if _FELT not in self.journal:
            found = sensitivity(
                self.runner, self.matrices, self._spill, seed=self.recipe.seed, workers=self.workers
            )
            if self.workers.rank == 0:
                tensors = {f"~{name}": rows for name, rows in found.rows.items()}
                self.journal.put(_FELT, tensors | {"~": found.embedding}, {"rows": [*found.rows]})
            self.workers.wait("sensitivity kept")
            self.journal.refresh()
        names = self.journal.notes[_FELT]["rows"]
        rows = {name: self.journal.get(f"~{name}").to(self.runner.device) for name in names}
        return Sensitivity(rows, self.journal.get("~").to(self.runner.device))

    def _layer(self, index: int) -> None:
        matrices = [m for m in self.matrices if m.layer == index]
        mine = [m for m in matrices if self._is_mine(m)]
        keeps = _dense_key(index) in self._mine
        if not (mine or keeps or self._rolls):
            return
        with self.runner.layer(index):
            moments, scales = self._observe(index, matrices, mine)
            for matrix in mine:
                moment = scaled_moment(_moment(matrix, moments), scales.get(matrix.name))
                self._matrix(matrix, moment, self._rows(matrix, moments))
            if keeps:
                self._keep_dense(index, self.runner.inside[index])

    def _observe(
        self, index: int, matrices: list[Matrix], mine: list[Matrix]
    ) -> tuple[dict[str, Moments], dict[str, Tensor]]:
        """Moments of the inputs of `mine`; where columns are scaled, their scales, folded in."""
        folds = (
            self._rolls and self.recipe.column_scaling and (mine or _dense_key(index) in self._mine)
        )
        # An expert that no token reaches asks all its siblings.
        asked = {m.parameter for m in (matrices if folds else mine)}
        observer = InputObserver()
        if self._rolls or mine:
            watched = [m for m in matrices if m.parameter in asked]
            with observed(self.runner.source.model, watched, observer):
                for batch in range(len(self.runner.windows)):
                    self._step(index, batch)
                    observer.end_batch()
        if not folds:
            return observer.moments, {}
        first = self._state(index, 0)
        model, moments = self.runner.source.model, observer.moments
        scales = fold_scales(model, matrices, moments, lambda: self.runner.step(index, first))
        return moments, scales

    def _state(self, index: int, batch: int) -> Tensor:
        return self._spill.peek(state(index, batch))[0].to(self.runner.device)

    def _step(self, index: int, batch: int) -> None:
        after = self.runner.step(index, self._state(index, batch))
        if self._rolls:
            self._spill.put(state(index + 1, batch), [after])
            (self._spill.folder / state(index - 1, batch)).unlink(missing_ok=True)

    def _outer(self) -> None:
        """Embedding, head, and whatever else stands outside the layers."""
        mine = [m for m in self.matrices if m.layer is None and self._is_mine(m)]
        if not (mine or _dense_key(None) in self._mine):
            return
        observer = InputObserver()
        with self.runner.outer():
            with observed(self.runner.source.model, mine, observer):
                for batch in range(len(self.runner.windows) if mine else 0):
                    last = self._state(len(self.runner), batch)
                    for _ in self.runner.logits_by_part(batch, last):
                        observer.end_batch()
            for matrix in mine:
                moment = _moment(matrix, observer.moments)
                rows = self._rows(matrix, observer.moments)
                if matrix.kind == "embedding" and self.sensitivity:
                    ids = torch.cat([batch.flatten() for batch in self.runner.windows])
                    uses = torch.bincount(ids, minlength=matrix.rows)
                    moment, rows = self.sensitivity.of_embedding(uses, moment, rows)
                self._matrix(matrix, moment, rows)
            if _dense_key(None) in self._mine:
                self._keep_dense(None, self.runner.outside)

    def _matrix(self, matrix: Matrix, moment: Tensor | None, rows: Tensor | None) -> None:
        start = time.perf_counter()
        weight = matrix.of(self.runner.source.model.get_parameter(matrix.parameter))
        done = decompose(weight, self.recipe.of(matrix.name), moment=moment, rows=rows)
        felt = torch.ones(matrix.rows) if rows is None else rows.cpu().float()
        note = {
            "levels": done.spec.levels,
            "rank": done.spec.rank,
            "errors": done.relative_errors,
            # Second order: half the curvature times the squared error, nats per token.
            "losses": (done.row_errors.cpu() @ felt / 2).tolist(),
        }
        tensors = {f"{matrix.name}.{name}": t.cpu() for name, t in done.tensors.items()}
        self.journal.put(matrix.name, tensors, note)
        self._bar.update(self.cost(matrix))
        _log.info(
            "%s: %d x %d, %d blocks, relative error %.3g, %.1f s", matrix.name, matrix.rows,
            matrix.columns, done.spec.levels, done.relative_errors[-1], time.perf_counter() - start,
        )  # fmt: skip

    def _is_mine(self, matrix: Matrix) -> bool:
        return matrix.name in self._mine

    def _keep_dense(self, index: int | None, names: list[str]) -> None:
        kept = {d.name: d.dtype for d in self.dense if d.persistent}
        model = self.runner.source.model
        tensors = {n: model.get_parameter(n).to(kept[n]).cpu() for n in names if n in kept}
        self.journal.put(_dense_key(index), tensors, {})

    def _rows(self, matrix: Matrix, moments: dict[str, Moments]) -> Tensor | None:
        """E[g²] of a matrix's outputs; an expert that no token reached counts as if one had, with
        the gradients of a token that reached a sibling."""
        if not self.sensitivity:
            return None
        found = self.sensitivity.rows
        prefix = f"{matrix.parameter}."
        siblings = [rows for name, rows in found.items() if name.startswith(prefix)]
        if matrix.kind == "expert" and matrix.name not in found and siblings:
            uses = sum(m.tokens for name, m in moments.items() if name.startswith(prefix))
            return torch.stack(siblings).sum(0) / max(uses, 1)
        return found.get(matrix.name)


def _dense_key(index: int | None) -> str:
    return "dense-outer" if index is None else f"dense-{index:06d}"


def _moment(matrix: Matrix, moments: dict[str, Moments]) -> Tensor | None:
    """E[x xᵀ] of a matrix, given up by `moments`; an expert that no token reached gets that of its
    siblings."""
    if matrix.kind != "expert":
        own = moments.pop(matrix.name, None)
        return None if own is None else own.mean()
    if matrix.name in moments:
        return moments[matrix.name].mean()
    prefix = f"{matrix.parameter}."
    siblings = [m for name, m in moments.items() if name.startswith(prefix)]
    if not siblings:
        return None
    tokens = sum(m.tokens for m in siblings)
    return torch.stack([m.second for m in siblings]).sum(0) / tokens
