"""Every matrix of a model into its stack, layer by layer, into the journal.

Holds one decoder layer and what calibration knows of it; a matrix is written when it is done.
How one matrix is decomposed is `decompose`'s business, what the stacks cost and earn is settled
later.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from bitstack.calibration import InputObserver, Moments, Sensitivity, observed, sensitivity
from bitstack.container.work import Journal
from bitstack.decompose import decompose, fold_scales, scaled_moment
from bitstack.matrices import Dense, Matrix
from bitstack.recipe import Recipe
from bitstack.streaming import LayerRunner, Spill


@dataclass
class Stacker:
    """Decomposes `matrices` of the runner's model; without windows it works free of data."""

    runner: LayerRunner
    matrices: list[Matrix]
    dense: list[Dense]
    recipe: Recipe
    journal: Journal
    progress: bool = False
    sensitivity: Sensitivity | None = None
    _bar: tqdm = field(init=False)

    def run(self) -> None:
        """Fill the journal: one entry a matrix, one for the dense tensors of each layer."""
        if self.runner.windows and self.recipe.method == "codes":
            spill = Spill(self.journal.path / "spill")
            self.sensitivity = sensitivity(self.runner, self.matrices, spill, seed=self.recipe.seed)
        self._bar = tqdm(
            total=len(self.matrices), desc="decompose", disable=not self.progress or None
        )
        with self._bar, torch.no_grad(), self.runner.outer():
            hidden = self.runner.embed() if self.runner.windows else []
            for index in range(len(self.runner)):
                with self.runner.layer(index):
                    hidden = self._layer(index, hidden)
            self._outer(hidden)

    def _layer(self, index: int, hidden: list[Tensor]) -> list[Tensor]:
        matrices = [m for m in self.matrices if m.layer == index]
        names = self.runner.inside[index]
        self._check(names)
        observer = InputObserver()
        after = []
        with observed(self.runner.source.model, matrices, observer):
            for value in hidden:
                after.append(self.runner.step(index, value))
                observer.end_batch()
        scales = self._fold(index, matrices, observer, hidden)
        for matrix in matrices:
            moment = _moment(matrix, observer.moments)
            self._matrix(matrix, scaled_moment(moment, scales.get(matrix.name)), self._rows(matrix))
        self._keep_dense(f"dense-{index:06d}", names)
        return after

    def _outer(self, hidden: list[Tensor]) -> None:
        """Embedding, head, and whatever else stands outside the layers."""
        matrices = [m for m in self.matrices if m.layer is None]
        self._check(self.runner.outside)
        observer = InputObserver()
        with observed(self.runner.source.model, matrices, observer):
            for batch, value in enumerate(hidden if matrices else []):
                self.runner.logits(batch, value)
                observer.end_batch()
        for matrix in matrices:
            moment, rows = _moment(matrix, observer.moments), self._rows(matrix)
            if matrix.kind == "embedding" and self.sensitivity:
                ids = torch.cat([batch.flatten() for batch in self.runner.windows])
                uses = torch.bincount(ids, minlength=matrix.rows)
                moment, rows = self.sensitivity.of_embedding(uses, moment, rows)
            self._matrix(matrix, moment, rows)
        self._keep_dense("dense-outer", self.runner.outside)

    def _fold(
        self, index: int, matrices: list[Matrix], observer: InputObserver, hidden: list[Tensor]
    ) -> dict[str, Tensor]:
        if self.recipe.method != "signs" or not self.recipe.scaling or not hidden:
            return {}
        return fold_scales(
            self.runner.source.model,
            matrices,
            observer.moments,
            lambda: self.runner.step(index, hidden[0]),
        )

    def _matrix(self, matrix: Matrix, moment: Tensor | None, rows: Tensor | None) -> None:
        self._bar.update()
        if matrix.name in self.journal:
            return
        weight = matrix.of(self.runner.source.model.get_parameter(matrix.parameter))
        done = decompose(weight, self.recipe, moment=moment, rows=rows)
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

    def _keep_dense(self, key: str, names: list[str]) -> None:
        kept = {d.name: d.dtype for d in self.dense if d.persistent}
        model = self.runner.source.model
        tensors = {n: model.get_parameter(n).to(kept[n]).cpu() for n in names if n in kept}
        self.journal.put(key, tensors, {})

    def _rows(self, matrix: Matrix) -> Tensor | None:
        """E[g²] of a matrix's outputs; an expert that no token reached gets its siblings' mean."""
        if not self.sensitivity:
            return None
        found = self.sensitivity.rows
        prefix = f"{matrix.parameter}."
        siblings = [rows for name, rows in found.items() if name.startswith(prefix)]
        if matrix.kind == "expert" and matrix.name not in found and siblings:
            return torch.stack(siblings).mean(0)
        return found.get(matrix.name)

    def _check(self, names: list[str]) -> None:
        for name in names:
            self.runner.source.check(name)


def _moment(matrix: Matrix, moments: dict[str, Moments]) -> Tensor | None:
    """E[x xᵀ] of a matrix; an expert that no token reached gets that of its siblings."""
    own = moments.get(matrix.name)
    if own is not None:
        return own.mean()
    prefix = f"{matrix.parameter}."
    siblings = [m for name, m in moments.items() if name.startswith(prefix)]
    if matrix.kind != "expert" or not siblings:
        return None
    tokens = sum(m.tokens for m in siblings)
    return torch.stack([m.second for m in siblings]).sum(0) / tokens
