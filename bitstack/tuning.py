"""Scales and codes of a run tuned: which planes learn when, and along which budgets.

Puts the packed model together from the journal, and what the tuner made of it back, after every
phase. How it is tuned is `tune`'s business.
"""

from collections.abc import Callable, Sequence

import torch

from bitstack.assemble import assemble
from bitstack.budget import Budgets
from bitstack.calibration_text import TUNED
from bitstack.container.manifest import DenseEntry, StackEntry
from bitstack.job import Job
from bitstack.order import predicted_order
from bitstack.recipe import Recipe
from bitstack.source import skeleton
from bitstack.streaming import Spill
from bitstack.tune import Phase, Tuner
from bitstack.tuned import make_tunable

_KEY = "~tuned"  # no matrix is called so
_SHARES = (0.5, 0.3, 0.2)  # of the steps: all planes; the lower half kept; all but the last


def tune(job: Job) -> None:
    """Every phase that the journal does not know yet, into the journal.

    Codes learn up to `base`; above it they are as good as the search made them, and scales alone
    learn. Codes of embedding and head never do: so few tokens use a row that it would learn these
    by heart.
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
    learn = [job.recipe.tune_codes > 0 and entry.layer is not None for entry in entries]
    stacks = make_tunable(model.to(job.device), entries, journal.get, learn)
    tuner = Tuner(
        model,
        list(stacks.values()),
        job.runner(job.text.tuning, tokens=TUNED),
        Spill(journal.path / "targets"),
        seed=job.recipe.seed,
        rate=job.recipe.tune_rate,
        code_rate=job.recipe.tune_codes,
    )

    def keep(finished: int) -> None:
        parts = {name: stack.stored() for name, stack in stacks.items()}
        tensors = {f"{name}.{part}": t for name, own in parts.items() for part, t in own.items()}
        journal.put(_KEY, tensors, {"phases": finished})

    tuner.run(todo, keep, done=done, show=job.progress)


def phases(recipe: Recipe, entries: Sequence[StackEntry], budgets: Budgets) -> list[Phase]:
    """All planes, then the upper ones of the base on planes that stay, then the last alone, each
    with budgets of as many planes as the base has; then the scales of the finer levels.

    Levels of both sides of the base are drawn together, as they will be used: codes that learnt
    among their like alone cancel one another's errors, and a stack raised from among them would
    leave its partners with theirs.
    """
    base = max(entry.spec.chains[0][-1] for entry in entries)
    top = max(entry.levels for entry in entries)
    kept = sorted({0, (1 + base) // 2, base - 1} - {base})
    left, found = recipe.tune_steps, []

    def add(steps: int, planes: int, high: int) -> None:
        low = max(planes, 1)
        ends = [[min(level, e.levels) for e in entries] for level in (low, min(high, top))]
        low_bytes, high_bytes = map(budgets.resident_bytes, ends)
        found.append(Phase(steps, planes, draw(budgets, recipe.targets, low_bytes, high_bytes)))

    for planes, share in zip(kept, _SHARES, strict=False):
        steps = left if planes == kept[-1] else round(share * recipe.tune_steps)
        left -= steps
        add(steps, planes, max(planes, 1) + base - 1)
    if base < top:
        add(recipe.fine_steps, base, top)
    return found


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
    return Budgets(
        stack_bytes=sizes,
        fixed_bytes=0,
        order=predicted_order(sizes, losses),
        weights=[e.rows * e.columns for e in job.stacks],
    )
