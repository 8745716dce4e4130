"""Scales and codes of a run tuned: which planes learn when, and along which budgets.

Puts the packed model together from the journal, and what the tuner made of it back, after every
phase. How it is tuned is `tune`'s business.
"""

from collections.abc import Callable, Sequence

import torch

from bitstack.calibration.spill import Spill
from bitstack.calibration.windows import TUNED
from bitstack.compression.job import Job
from bitstack.container.blocks import StackSpec
from bitstack.container.budget import Budgets
from bitstack.container.manifest import DenseEntry, StackEntry
from bitstack.nn.assemble import assemble
from bitstack.ordering.greedy import predicted_order
from bitstack.original.source import skeleton
from bitstack.recipe import Recipe
from bitstack.tuning.tuned_stack import Planes, learning, make_tunable
from bitstack.tuning.tuner import Phase, Tuner

_KEY = "~tuned"  # no matrix is called so
_SHARES = (0.5, 0.3, 0.2)  # of the steps: the lower half of the planes; more; the last


def tune(job: Job) -> None:
    """Every phase that the journal does not know yet, into the journal.

    Codes learn in all chains but the highest of several: there they are as good as the search made
    them, and scales alone learn. Codes of embedding and head never do: so few tokens use a row that
    it would learn these by heart.
    """
    assert job.text is not None
    entries, journal = job.stacks, job.journal
    todo = phases(job.recipe, entries, _budgets(job))
    done = journal.notes[_KEY]["phases"] if _KEY in journal else 0
    if done == len(todo):
        return
    dense = [DenseEntry.of(d) for d in job.dense]
    empty = skeleton(job.source.config, torch.float32)
    model = assemble(empty, entries, dense, journal, [entry.levels for entry in entries])
    learn = [job.recipe.code_lr > 0 and entry.layer is not None for entry in entries]
    stacks = make_tunable(model.to(job.device), entries, journal.get, learn)
    tuner = Tuner(
        model,
        list(stacks.values()),
        job.runner(job.text.tuning, tokens=TUNED),
        Spill(journal.path / "targets"),
        seed=job.recipe.seed,
        rate=job.recipe.scale_lr,
        code_rate=job.recipe.code_lr,
    )

    def keep(finished: int) -> None:
        parts = {name: stack.stored() for name, stack in stacks.items()}
        tensors = {f"{name}.{part}": t for name, own in parts.items() for part, t in own.items()}
        journal.put(_KEY, tensors, {"phases": finished})

    tuner.run(todo, keep, done=done, show=job.progress)


def phases(recipe: Recipe, entries: Sequence[StackEntry], budgets: Budgets) -> list[Phase]:
    """The lower planes of each chain, then those above them but the last, then the last alone, each
    with budgets of as many levels as learn; then the scales of the highest chain.

    Neighbouring levels are drawn together, as they will be used: codes that learnt among their like
    alone cancel one another's errors, and a stack raised from among them would leave its partners
    with theirs. The scales of the highest chain wait for the end: among coarse levels they would
    learn to cancel errors that are gone where they are used most.
    """
    last = max(learning(entry.spec)[-1][-1] for entry in entries)
    top = max(entry.levels for entry in entries)
    steps: dict[tuple[tuple[Planes, ...], ...], int] = {}  # short chains have fewer phases
    left = recipe.tune_steps
    for part, share in enumerate(_SHARES):
        own = left if part == len(_SHARES) - 1 else round(share * recipe.tune_steps)
        planes = tuple(_planes(entry.spec, part) for entry in entries)
        steps[planes], left = steps.get(planes, 0) + own, left - own
    parts = [
        (own, planes, max(1, *(chains[0].kept for chains in planes)), last + part)
        for part, (planes, own) in enumerate(steps.items())
    ]
    if last < top:
        finest = tuple(_planes(entry.spec, len(_SHARES)) for entry in entries)
        parts.append((recipe.fine_steps, finest, last, top))
    found = []
    for own, planes, low, high in parts:
        ends = [[min(level, e.levels) for e in entries] for level in (low, high)]
        sizes = map(budgets.resident_bytes, ends)
        found.append(Phase(own, planes, draw(budgets, recipe.target_bits, *sizes)))
    return found


def _planes(spec: StackSpec, part: int) -> tuple[Planes, ...]:
    """Of each chain: none are kept, the lower half of its levels, all but the last, all; of the
    highest, whose codes do not learn, all, and none in the end."""
    found = []
    for chain in spec.chains:
        top, half = chain[-1], (chain[0] + chain[-1]) // 2
        parts = [0, min(half, top - 1), top - 1, top]
        if chain not in learning(spec):
            parts = [top, top, top, 0]
        kept = parts[part]
        found.append(Planes(kept, next((p for p in parts[part:] if p > kept), top)))
    return tuple(found)


def draw(
    budgets: Budgets, targets: Sequence[float], low: int, high: int
) -> Callable[[float], list[int]]:
    """Levels for a number from 0 to 1: a share of the way from `low` to `high` bytes; with
    `targets` in bits a weight the lower half of the numbers goes to what lies within 5% of one of
    them, as far as they lie between the two.
    """
    weights = sum(budgets.weights)
    reached = [bits for bits in targets if low <= bits * weights / 8 <= high]

    def levels(number: float) -> list[int]:
        size = low + number * (high - low)
        if reached:
            which, within = divmod(2 * number * len(reached), 1)
            size = low + (2 * number - 1) * (high - low)
            if number < 0.5:
                size = (0.95 + 0.1 * within) * reached[int(which)] * weights / 8
        return budgets.levels(int(min(max(size, low), high)))[0]

    return levels


def _budgets(job: Job) -> Budgets:
    """What the levels cost, along their order as it is predicted.

    Along the measured order some levels lie above the hull and are hardly ever drawn: they would
    stay untuned.
    """
    sizes = [entry.spec.bytes() for entry in job.stacks]
    losses = [job.journal.notes[entry.name]["losses"] for entry in job.stacks]
    return job.budgets(predicted_order(sizes, losses))
