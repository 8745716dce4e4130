"""Measures the loss of a stacked model that is still being made, layer by layer from the journal.

The loss is that of the text, or the divergence from the original. The original's weights of a layer
are overwritten by what its stacks give at the requested levels, so one layer lies in memory at a
time. Does not measure finished containers; see `metrics.loss.perplexity`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from bitstack.calibration.layers import LayerRunner
from bitstack.container.entries import StackEntry
from bitstack.container.journal import Journal
from bitstack.nn import Stack
from bitstack.ordering.reference import Reference

_UNSCORED = -100  # label that cross_entropy leaves out
_WEIGHTS_AT_ONCE = 1 << 22  # weights that are unpacked at a time


@dataclass
class LayerwiseLoss:
    """A loss, in nats per token over the runner's windows, called with the level of every stack.

    It is the cross entropy of the text, or with a `reference` KL(original || stacked).
    """

    runner: LayerRunner
    journal: Journal
    stacks: Sequence[StackEntry]
    dense: Sequence[str]  # dense parameters the journal holds
    reference: Reference | None = None

    @torch.no_grad()
    def __call__(self, levels: list[int]) -> float:
        runner = self.runner
        with runner.outer_loaded():
            self._overwrite_layer(None, levels)
            hidden = runner.embed_all()
            for index in range(len(runner)):
                with runner.layer_loaded(index):
                    self._overwrite_layer(index, levels)
                    hidden = [runner.run_layer(index, h) for h in hidden]
            loss = self._divergence if self.reference else self._cross_entropy
            total = sum(loss(b, h) for b, h in enumerate(hidden))
        # The first token of a window has nothing to be predicted from; a divergence needs no label.
        unscored = 0 if self.reference else 1
        return total / sum(ids[:, unscored:].numel() for ids in runner.windows)

    def _divergence(self, batch: int, hidden: torch.Tensor) -> float:
        """Sum over the positions of a batch of the KL from the original, nats."""
        assert self.reference
        parts = self.runner.logits_by_part(batch, hidden)
        return sum(self.reference.divergence(batch, part, logits) for part, logits in parts)

    def _cross_entropy(self, batch: int, hidden: torch.Tensor) -> float:
        """Sum over the predicted tokens of a batch, nats."""
        ids = F.pad(self.runner.windows[batch][:, 1:], (0, 1), value=_UNSCORED).to(hidden.device)
        total = 0.0
        for part, logits in self.runner.logits_by_part(batch, hidden):
            logits = logits.flatten(0, 1).float()
            total += float(F.cross_entropy(logits, ids[:, part].flatten(), reduction="sum"))
        return total

    def _overwrite_layer(self, layer: int | None, levels: list[int]) -> None:
        """Overwrites the loaded weights of one layer, or of the parts outside all layers (None)."""
        runner, device = self.runner, self.runner.device
        model = runner.source.model
        names = runner.outer_parameters if layer is None else runner.layer_parameters[layer]
        with self.journal.files_kept_open():
            for name in set(names) & set(self.dense):
                model.get_parameter(name).copy_(self.journal.get(name))
            for entry, level in zip(self.stacks, levels, strict=True):
                if entry.layer == layer:
                    stack = Stack(entry.spec)
                    stack.set_level(level, partial(self._tensor_of, entry.name))
                    target = entry.matrix.of(model.get_parameter(entry.parameter))
                    _overwrite(target, stack.to(device))

    def _tensor_of(self, stack: str, name: str) -> torch.Tensor:
        return self.journal.get(f"{stack}.{name}")


def _overwrite(target: torch.Tensor, stack: Stack) -> None:
    """Overwrites `target` with the matrix of `stack`, a few rows at a time."""
    rows = torch.arange(len(target), device=target.device)
    for some in rows.split(max(1, _WEIGHTS_AT_ONCE // target.shape[1])):
        target[some] = stack.gather(some).to(target.dtype)
