"""Text in, how much the loss feels an error of every matrix out: one pass forward and one back.

The hidden states that enter each layer are left in files, from which `stacker` takes up any layer
by itself. Several workers share the batches; sums over them are taken in an order that does not
depend on how many workers there are.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.observers import GradientObserver, observed
from bitstack.calibration.spill import Spill
from bitstack.machine.workers import Workers
from bitstack.original.matrices import Matrix

_PARTS = 16  # the batches are summed up in so many parts, however many workers there are
_EMBEDDING = "~embedding"  # no matrix is called so


@dataclass
class Sensitivity:
    """How much the loss feels an error: gradient second moments, means over tokens."""

    rows: dict[str, Tensor]  # matrix -> [m], E[g²] of each output row
    embedding: Tensor  # [d, d], E[g gᵀ] for a row of the embedding, at the tokens that use it

    def of_embedding(
        self, uses: Tensor, head_moment: Tensor | None, head_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Moment [d, d] and row weights [V] of an embedding whose rows were used `uses` [V] times.

        Row r used as input costs share_r · e G eᵀ; where the head is tied to it, used as output it
        costs also rows_r · e H eᵀ. The sum is put as one moment and one weight a row, exact when
        all rows err alike.
        """
        gradient = self.embedding
        share = (uses + 1).to(gradient) / float(uses.sum() + len(uses))
        if head_moment is None or head_rows is None:
            return gradient, share
        head = head_rows.to(gradient)
        moment = head.sum() * head_moment + gradient
        felt = head * head_moment.trace() + share * gradient.trace()
        return moment, felt / moment.trace()


def state(layer: int, batch: int) -> str:
    """The spilled hidden states of a batch that enter a layer; of the last + 1, that leave it."""
    return f"state-{layer}-{batch}"


def sensitivity(
    runner: LayerRunner, matrices: list[Matrix], spill: Spill, *, seed: int, workers: Workers
) -> Sensitivity:
    """One backward pass of the model's own expected loss.

    Labels are drawn from the model's predictions, which makes the squared gradients the Fisher
    information: the curvature of the loss, not its slope. Leaves the `state` files in `spill`.
    """
    count = len(runner.windows)
    parts = [list(range(p, count, _PARTS)) for p in range(min(_PARTS, count))]
    mine = {p: parts[p] for p in range(workers.rank, len(parts), workers.count)}
    forward(runner, spill, [batch for batches in mine.values() for batch in batches])
    _backward(runner, matrices, spill, mine, seed)
    workers.wait("sensitivity")
    return _total(spill, len(parts), sum(ids.numel() for ids in runner.windows))


def forward(runner: LayerRunner, spill: Spill, batches: list[int]) -> None:
    """The hidden states that enter every layer, and leave the last, into files."""
    with torch.no_grad():
        with runner.outer():
            runner.learn()
            for batch in batches:
                spill.put(state(0, batch), [runner.enter(batch)])
        for index in range(len(runner)):
            with runner.layer(index):
                for batch in batches:
                    hidden = _read(runner, spill, state(index, batch))
                    spill.put(state(index + 1, batch), [runner.step(index, hidden)])


def _backward(
    runner: LayerRunner, matrices: list[Matrix], spill: Spill, mine: dict[int, list[int]], seed: int
) -> None:
    """Gradients of every batch down to the embedding; what each part of them says, into a file."""
    model, by_layer = runner.source.model, _by_layer(matrices)
    observers = {part: GradientObserver() for part in mine}
    with runner.outer():
        for part, batches in mine.items():
            with observed(model, by_layer.get(None, []), observers[part]):
                for batch in batches:
                    last = _read(runner, spill, state(len(runner), batch))
                    spill.put(f"gradient-{batch}", [_head_gradient(runner, batch, last, seed)])
    for index in reversed(range(len(runner))):
        with runner.layer(index):
            for part, batches in mine.items():
                with observed(model, by_layer.get(index, []), observers[part]):
                    for batch in batches:
                        hidden = _read(runner, spill, state(index, batch))
                        gradient = _read(runner, spill, f"gradient-{batch}")
                        spill.put(f"gradient-{batch}", [_pull(runner, index, hidden, gradient)])
    with runner.outer():
        for part, batches in mine.items():
            found = {_EMBEDDING: _embedding_gradient(runner, spill, batches)}
            spill.put_named(f"felt-{part}", observers[part].squares | found)


def _total(spill: Spill, parts: int, tokens: int) -> Sensitivity:
    """The parts added up, one after the other."""
    total: dict[str, Tensor] = {}
    for part in range(parts):
        for name, value in spill.named(f"felt-{part}").items():
            total[name] = total[name] + value if name in total else value
    means = {name: value / tokens for name, value in sorted(total.items())}
    embedding = means.pop(_EMBEDDING)
    return Sensitivity(means, embedding)


def _read(runner: LayerRunner, spill: Spill, key: str) -> Tensor:
    return spill.peek(key)[0].to(runner.device)


def _by_layer(matrices: list[Matrix]) -> dict[int | None, list[Matrix]]:
    layers: dict[int | None, list[Matrix]] = {}
    for matrix in matrices:
        layers.setdefault(matrix.layer, []).append(matrix)
    return layers


def _head_gradient(runner: LayerRunner, batch: int, last: Tensor, seed: int) -> Tensor:
    """The gradient at the last layer's output `last`."""
    generator = torch.Generator().manual_seed(seed + batch)
    drawn = torch.rand(last.shape[:2], generator=generator)
    last = last.detach().requires_grad_()
    for part, logits in runner.logits_by_part(batch, last):
        logits = logits.float().flatten(0, 1)
        labels = draw(logits.detach().softmax(-1), drawn[:, part].flatten().to(logits.device))
        F.cross_entropy(logits, labels, reduction="sum").backward()
    assert last.grad is not None
    return last.grad


def draw(chances: Tensor, uniform: Tensor) -> Tensor:
    """One index of each row of `chances` [n, k], by a number from 0 to 1 for each, [n]."""
    sums = chances.cumsum(-1)
    wanted = (uniform * sums[:, -1]).unsqueeze(1)
    return torch.searchsorted(sums, wanted)[:, 0].clamp_max(chances.shape[1] - 1)


def _pull(runner: LayerRunner, index: int, hidden: Tensor, gradient: Tensor) -> Tensor:
    hidden = hidden.detach().requires_grad_()
    runner.step(index, hidden).backward(gradient)
    assert hidden.grad is not None
    return hidden.grad


def _embedding_gradient(runner: LayerRunner, spill: Spill, batches: list[int]) -> Tensor:
    """Sum over tokens of g gᵀ for the embedding rows used.

    Models may scale rows on their way to layer 0 (Gemma) or add positions (GPT-2); the scale is
    the regression of what arrives on the rows themselves.
    """
    weight = runner.source.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    total = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)
    for batch in batches:
        arrived = _read(runner, spill, state(0, batch))
        gradient = _read(runner, spill, f"gradient-{batch}")
        (spill.folder / f"gradient-{batch}").unlink()
        rows = weight[runner.windows[batch].to(weight.device)]
        if arrived.shape != rows.shape:  # projected (OPT-350m) or multiplied (Gemma 3n) on the way
            total.diagonal().add_(1)
            continue
        scale = (arrived * rows).sum() / rows.square().sum().clamp_min(1e-12)
        flat = gradient.flatten(0, 1) * scale
        total.addmm_(flat.T, flat)
    return total
