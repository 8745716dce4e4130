"""Scales and codes of a run tuned, chain by chain of the levels that share their planes.

Puts the packed model together from the journal, and what the tuner made of it back. How it is tuned
is `tune`'s business.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bitstack.assemble import assemble
from bitstack.budget import Budgets
from bitstack.container.manifest import DenseEntry, StackEntry
from bitstack.job import Job
from bitstack.order import predicted_order
from bitstack.recipe import Recipe
from bitstack.source import skeleton
from bitstack.streaming import Spill
from bitstack.tune import Phase, Tuner
from bitstack.tuned import make_tunable

_TOKENS = 2048  # of one step
_SHARES = (0.5, 0.3, 0.2)  # of the steps: all planes; the lower half kept; all but the last


def tune(job: Job) -> None:
    """Every chain of levels, the lowest first, into the journal."""
    for index in range(max(len(e.spec.chains) for e in job.stacks)):
        key = f"~tuned-{index}"  # no matrix is called so
        if key not in job.journal:
            job.journal.put(key, _tuned(job, index), {})


def _tuned(job: Job, index: int) -> dict[str, Tensor]:
    """The tensors of the levels in chain `index` of every stack.

    Codes learn in the lowest, above it they are as good as the search made them. Those of embedding
    and head never do: so few tokens use a row that it would learn these by heart.
    """
    entries = job.stacks
    spans = [span(entry, index) for entry in entries]
    dense = [DenseEntry.of(d) for d in job.dense]
    empty = skeleton(job.source.config, torch.float32)
    model = assemble(empty, entries, dense, job.journal, [own[-1] for own in spans])
    learn = [job.recipe.tune_codes > 0 and index == 0 and e.layer is not None for e in entries]
    get, lowest = job.journal.get, index == 0
    stacks = make_tunable(model.to(job.device), entries, spans, get, learn, fast=lowest)
    tuner = Tuner(
        model,
        list(stacks.values()),
        job.runner(tokens=_TOKENS),
        Spill(job.journal.path / "targets"),
        seed=job.recipe.seed,
        rate=job.recipe.tune_rate,
        code_rate=job.recipe.tune_codes,
    )
    inside = [own for entry, own in zip(entries, spans, strict=True) if entry.layer is not None]
    top = max(own[-1] for own in inside or spans) if lowest else 0
    found = phases(job.recipe, _budgets(job, spans), spans, top)
    tuner.run(found, show=job.progress)
    return {
        f"{name}.{part}": tensor
        for name, stack in stacks.items()
        for part, tensor in stack.stored().items()
    }


def span(entry: StackEntry, index: int) -> range:
    """The levels of a stack that are tuned with chain `index` of the others.

    Embedding and head have all their planes from the start: they soon lie higher than the rest, and
    layers tuned beside worse ones would learn to make up for what is not there.
    """
    chains = entry.spec.chains
    if entry.layer is None and index == 0:
        return range(1, entry.levels + 1)
    return chains[index] if index < len(chains) else range(entry.levels, entry.levels + 1)


def phases(recipe: Recipe, budgets: Budgets, spans: Sequence[range], top: int) -> list[Phase]:
    """All planes of the lowest chain, which ends at `top`, then its upper levels on planes that
    stay, then the last alone; of a finer one (`top` 0) the scales."""
    if not top:
        return [Phase(recipe.fine_steps, 0, draw(budgets, spans, recipe.targets))]
    kept = sorted({0, (1 + top) // 2, top - 1} - {top})
    left, found = recipe.tune_steps, []
    for planes, share in zip(kept, _SHARES, strict=False):
        steps = left if planes == kept[-1] else round(share * recipe.tune_steps)
        left -= steps
        found.append(Phase(steps, planes, draw(budgets, spans, recipe.targets, planes)))
    return found


def draw(
    budgets: Budgets, spans: Sequence[range], targets: Sequence[float], kept: int = 0
) -> Callable[[float], list[int]]:
    """Levels for a number from 0 to 1: a share of the way from the first `kept` planes to the top;
    with `targets` in bits a weight the lower half of the numbers goes to what lies within 5% of one
    of them, as far as they can be reached.

    `budgets` counts the levels of every stack from the first of its span.
    """
    start = [min(max(kept, own[0]), own[-1]) - own[0] + 1 for own in spans]
    low, high = budgets.resident_bytes(start), budgets.total_bytes
    weights = sum(budgets.weights)
    reached = [bits for bits in targets if low <= bits * weights / 8 <= high]

    def levels(number: float) -> list[int]:
        size = low + number * (high - low)
        if reached:
            which, within = divmod(2 * number * len(reached), 1)
            size = low + (2 * number - 1) * (high - low)
            if number < 0.5:
                size = (0.95 + 0.1 * within) * reached[int(which)] * weights / 8
        found = budgets.levels(int(min(max(size, low), high)))[0]
        return [own[0] + level - 1 for level, own in zip(found, spans, strict=True)]

    return levels


def _budgets(job: Job, spans: Sequence[range]) -> Budgets:
    """What the levels of `spans` cost, along their order as it is predicted.

    Along the measured order some levels lie above the hull and are hardly ever drawn: they would
    stay untuned.
    """
    cut = [slice(own.start - 1, own.stop - 1) for own in spans]
    sizes = [e.spec.bytes()[part] for e, part in zip(job.stacks, cut, strict=True)]
    notes = (job.journal.notes[e.name]["losses"] for e in job.stacks)
    losses = [found[part] for found, part in zip(notes, cut, strict=True)]
    return Budgets(
        stack_bytes=sizes,
        fixed_bytes=0,
        order=predicted_order(sizes, losses),
        weights=[e.rows * e.columns for e in job.stacks],
    )
