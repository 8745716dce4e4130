"""Measures the Fisher information of every matrix's outputs: one pass forward and one back.

The Fisher information of an output row is the mean square of its gradient, E[g²]. It is the
curvature of the loss: half of it times the squared error of that output is how many nats the loss
rises. The hidden states that enter each layer are left in files, from which
`compression.layer_statistics` runs any layer by itself; an interrupted measurement goes on from the
last finished layer by them. Several workers share the batches; sums over batches are taken in an
order that does not depend on how many workers there are. Does not run layers back, see
`calibration.gradients`, or collect the inputs of the matrices, see `calibration.observers`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bitstack.calibration.gradients import head_gradient, layer_gradient
from bitstack.calibration.hidden_states import read_state, spill_states, state_key
from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.observers import GradientObserver, observed
from bitstack.calibration.spill import Spill
from bitstack.machine.progress import bar
from bitstack.machine.workers import Workers
from bitstack.original.matrix import Matrix

GRADIENT_TOKENS = 16384  # tokens run backward: a mean of squares needs fewer than a second moment
_PARTS = 16  # groups of batches; each is summed up alone, so no sum depends on the worker count
_EMBEDDING = "~embedding"  # no matrix has this name
_BELOW = -1  # stands for the embedding among the indices of layers


@dataclass
class FisherInformation:
    """Second moments of the gradients, as means over tokens."""

    rows: dict[str, Tensor]  # matrix -> [m], E[g²] of each output row
    embedding: Tensor  # [d, d], E[g gᵀ] for a row of the embedding, at the tokens that use it

    def of_embedding(
        self, share: Tensor, head_moment: Tensor | None, head_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the second moment [d, d] and row weights [m] that rows of an embedding are coded
        with.

        An error e of row r, used as input, costs share_r · e G eᵀ, where G is E[g gᵀ]. If the head
        is tied to the embedding, row r is an output too and costs also rows_r · e H eᵀ. The coder
        takes one moment and one weight a row, so the sum is written in that form: exact when all
        rows have the same error.

        Args:
            share: of the tokens of text that are each of these rows, [m]; see `token_shares`.
            head_moment: H = E[x xᵀ] [d, d] of the tied head's inputs, None without one.
            head_rows: E[g²] [m] of the tied head's outputs, None without one.
        """
        gradient = self.embedding
        share = share.to(gradient)
        if head_moment is None or head_rows is None:
            return gradient, share
        head = head_rows.to(gradient)
        moment = head.sum() * head_moment + share.sum() * gradient
        # What row r costs by itself for an error alike in all directions: traces, not matrices.
        row_costs = head * head_moment.trace() + share * gradient.trace()
        return moment, row_costs / moment.trace()


def token_shares(windows: list[Tensor], vocabulary: int) -> Tensor:
    """Returns the share of each token in text, each counted once more than it is there, [V]."""
    uses = torch.bincount(torch.cat([ids.flatten() for ids in windows]), minlength=vocabulary)
    return (uses + 1) / float(uses.sum() + len(uses))


def measure_fisher(
    runner: LayerRunner,
    matrices: list[Matrix],
    spill: Spill,
    *,
    seed: int,
    workers: Workers,
    show: bool = False,
) -> FisherInformation:
    """Measures the Fisher information of `matrices` and of the embedding over some windows.

    Labels are drawn from the model's own predictions, not read from the text: squared gradients of
    these are the Fisher information, which is the curvature of the loss even where its slope is
    zero. Leaves the files of `state_key` in `spill`. Bars are shown if `show`.
    """
    chosen = gradient_batches(runner.windows)
    parts = [chosen[p::_PARTS] for p in range(min(_PARTS, len(chosen)))]
    own_parts = {p: parts[p] for p in range(workers.rank, len(parts), workers.count)}
    others = sorted({*range(len(runner.windows))} - {*chosen})[workers.rank :: workers.count]
    own = [batch for batches in own_parts.values() for batch in batches]
    spill_states(runner, spill, own + others, show=show)
    _backward(runner, matrices, spill, own_parts, seed, show)
    workers.wait("fisher")
    tokens = sum(runner.windows[batch].numel() for batch in chosen)
    return _mean_over_tokens(spill, len(runner), len(parts), tokens)


def gradient_batches(windows: list[Tensor]) -> list[int]:
    """Returns the batches, at equal distances, that are run backward too."""
    tokens = sum(ids.numel() for ids in windows)
    step = max(1, min(len(windows), tokens // GRADIENT_TOKENS))
    return [*range(0, len(windows), step)]


def _backward(
    runner: LayerRunner,
    matrices: list[Matrix],
    spill: Spill,
    parts: dict[int, list[int]],
    seed: int,
    show: bool,
) -> None:
    """Runs the batches of `parts` back to the embedding.

    Writes one file of sums for each part and layer, and the gradients at the layer's input for the
    one below. What is there already, from a run that was interrupted, is not done again.
    """
    by_layer = _by_layer(matrices)
    top = len(runner)
    reached = {part: _reached(spill, top, part, batches) for part, batches in parts.items()}
    layers = range(top, _BELOW - 1, -1)
    for layer in bar(layers, desc="gradients", show=show, unit="layer"):
        left = {part: own for part, own in parts.items() if reached[part] > layer}
        if not left:
            continue
        loaded = runner.layer_loaded(layer) if 0 <= layer < top else runner.outer_loaded()
        observed_here = by_layer.get(None if layer == top else layer, [])
        with loaded:
            for part, batches in left.items():
                sums = _part_backward(runner, observed_here, spill, layer, batches, seed)
                spill.put_named(_sums_key(layer, part), sums)
                for batch in batches:
                    spill.remove(_gradient_key(layer + 1, batch))


def _reached(spill: Spill, top: int, part: int, batches: list[int]) -> int:
    """The lowest layer that a part has been run back through; above the head, if through none."""
    for layer in range(_BELOW, top + 1):
        if spill.has(_sums_key(layer, part)):
            keys = [] if layer == _BELOW else [_gradient_key(layer, batch) for batch in batches]
            return layer if all(map(spill.has, keys)) else top + 1
    return top + 1


def _part_backward(
    runner: LayerRunner, matrices: list[Matrix], spill: Spill, layer: int, batches: list[int],
    seed: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Runs some batches back through one loaded layer, or the head, or sums up at the embedding.

    Returns:
        By matrix, sums over tokens of squared gradients [m].
    """
    if layer == _BELOW:
        return {_EMBEDDING: _embedding_gradient(runner, spill, batches)}
    observer = GradientObserver()
    with observed(runner.source.model, matrices, observer):
        for batch in batches:
            hidden = read_state(runner, spill, state_key(layer, batch))
            if layer == len(runner):
                gradient = head_gradient(runner, batch, hidden, seed)
            else:
                above = read_state(runner, spill, _gradient_key(layer + 1, batch))
                gradient = layer_gradient(runner, layer, hidden, above)
            spill.put(_gradient_key(layer, batch), [gradient])
    return observer.squares


def _gradient_key(layer: int, batch: int) -> str:
    """File of the loss gradient at the input of a layer; of the head, for the number of layers."""
    return f"gradient-{layer}-{batch}"


def _sums_key(layer: int, part: int) -> str:
    """File of what a part of the batches has summed up at a layer."""
    return f"fisher-{layer}-{part}"


def _mean_over_tokens(spill: Spill, layers: int, parts: int, tokens: int) -> FisherInformation:
    """Adds up the parts, always in the same order, and divides by the number of tokens."""
    total: dict[str, Tensor] = {}
    for layer in range(_BELOW, layers + 1):
        for part in range(parts):
            for name, value in spill.get_named(_sums_key(layer, part)).items():
                total[name] = total[name] + value if name in total else value
    means = {name: value / tokens for name, value in sorted(total.items())}
    embedding = means.pop(_EMBEDDING)
    return FisherInformation(means, embedding)


def _by_layer(matrices: list[Matrix]) -> dict[int | None, list[Matrix]]:
    layers: dict[int | None, list[Matrix]] = {}
    for matrix in matrices:
        layers.setdefault(matrix.layer, []).append(matrix)
    return layers


def _embedding_gradient(runner: LayerRunner, spill: Spill, batches: list[int]) -> Tensor:
    """Sum over tokens of g gᵀ for the embedding rows used, [d, d].

    Models may scale rows on their way to layer 0 (Gemma) or add positions (GPT-2); the scale is
    estimated by regressing what arrives there on the rows themselves.
    """
    weight = runner.source.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    total = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)
    for batch in batches:
        arrived = read_state(runner, spill, state_key(0, batch))
        gradient = read_state(runner, spill, _gradient_key(0, batch))
        rows = weight[runner.windows[batch].to(weight.device)]
        if arrived.shape != rows.shape:  # projected (OPT-350m) or multiplied (Gemma 3n) on the way
            total.diagonal().add_(1)
            continue
        scale = (arrived * rows).sum() / rows.square().sum().clamp_min(1e-12)
        flat = gradient.flatten(0, 1) * scale
        total.addmm_(flat.T, flat)
    return total
