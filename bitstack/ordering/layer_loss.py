"""The loss of a stacked model that is still being made, layer by layer from the journal.

The loss is that of text, or the divergence from the original. The original's weights of a layer are
overwritten by what its stacks give at the asked levels, so one layer lies in memory at a time.
Finished containers are measured by `metrics.perplexity`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from bitstack.calibration.layers import LayerRunner
from bitstack.container.journal import Journal
from bitstack.container.manifest import StackEntry
from bitstack.nn import Stack
from bitstack.ordering.reference import Reference

_UNSCORED = -100  # what cross_entropy leaves out
_ROWS = 1 << 22  # weights that are unpacked at a time


@dataclass
class LayerMeasure:
    """Calling it with the level of every stack gives nats per token over the runner's windows: the
    text's, or with a `reference` those of KL(original || stacked)."""

    runner: LayerRunner
    journal: Journal
    stacks: Sequence[StackEntry]
    dense: Sequence[str]  # dense parameters the journal holds
    reference: Reference | None = None

    @torch.no_grad()
    def __call__(self, levels: list[int]) -> float:
        runner = self.runner
        with runner.outer():
            self._fill(None, levels)
            hidden = runner.embed()
            for index in range(len(runner)):
                with runner.layer(index):
                    self._fill(index, levels)
                    hidden = [runner.step(index, h) for h in hidden]
            loss = self._divergence if self.reference else self._loss
            total = sum(loss(b, h) for b, h in enumerate(hidden))
        unscored = 0 if self.reference else 1
        return total / sum(ids[:, unscored:].numel() for ids in runner.windows)

    def _divergence(self, batch: int, hidden: torch.Tensor) -> float:
        assert self.reference
        parts = self.runner.logits_by_part(batch, hidden)
        return sum(self.reference.divergence(batch, part, logits) for part, logits in parts)

    def _loss(self, batch: int, hidden: torch.Tensor) -> float:
        ids = F.pad(self.runner.windows[batch][:, 1:], (0, 1), value=_UNSCORED).to(hidden.device)
        total = 0.0
        for part, logits in self.runner.logits_by_part(batch, hidden):
            logits = logits.flatten(0, 1).float()
            total += float(F.cross_entropy(logits, ids[:, part].flatten(), reduction="sum"))
        return total

    def _fill(self, layer: int | None, levels: list[int]) -> None:
        """Overwrite the loaded weights of one layer, or of the parts outside all layers."""
        model, device = self.runner.source.model, self.runner.device
        inside = self.runner.outside if layer is None else self.runner.inside[layer]
        with self.journal.held():
            for name in set(inside) & set(self.dense):
                model.get_parameter(name).copy_(self.journal.get(name))
            for entry, level in zip(self.stacks, levels, strict=True):
                if entry.layer == layer:
                    stack = Stack(entry.spec)
                    stack.set_level(level, partial(self._part, entry.name))
                    target = entry.matrix.of(model.get_parameter(entry.parameter))
                    _fill_rows(target, stack.to(device))

    def _part(self, name: str, part: str) -> torch.Tensor:
        return self.journal.get(f"{name}.{part}")


def _fill_rows(target: torch.Tensor, stack: Stack) -> None:
    """Overwrite `target` with the matrix of `stack`, a few rows at a time."""
    rows = torch.arange(len(target), device=target.device)
    for some in rows.split(max(1, _ROWS // target.shape[1])):
        target[some] = stack.gather(some).to(target.dtype)
