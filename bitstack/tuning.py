"""The lower planes of a run tuned, between their decomposition and that of the planes above.

Puts the packed model together from the journal, and what the tuner made of it back. How it is tuned
is `tune`'s business.
"""

from collections.abc import Callable, Sequence

import torch

from bitstack.assemble import assemble
from bitstack.budget import Budgets
from bitstack.container.manifest import DenseEntry, StackEntry
from bitstack.container.work import Preferred
from bitstack.job import Job
from bitstack.order import predicted_order
from bitstack.source import skeleton
from bitstack.stages import LOWER, TUNED
from bitstack.streaming import Spill
from bitstack.tune import Tuner
from bitstack.tuned import make_tunable

_TOKENS = 2048  # of one step
_DONE = "~tuned"  # the journal's entry; no matrix is called so


def tune_lower(job: Job) -> None:
    """Scales and codes of the lower planes, tuned along their predicted order, into the
    journal."""
    if _DONE in job.journal:
        return
    entries = job.made(LOWER)
    reader = Preferred(job.journal, LOWER.prefix)
    dense = [DenseEntry.of(d) for d in job.dense]
    levels = [e.levels for e in entries]
    empty = skeleton(job.source.config, torch.float32)
    model = assemble(empty, entries, dense, reader, levels)
    learns = job.recipe.tune_codes > 0
    tuned = make_tunable(model.to(job.device), entries, reader.get, codes=learns)
    Tuner(
        model,
        list(tuned.values()),
        job.runner(tokens=_TOKENS),
        Spill(job.journal.path / "targets"),
        draw(_budgets(job, entries), job.recipe.targets),
        seed=job.recipe.seed,
        rate=job.recipe.tune_rate,
        code_rate=job.recipe.tune_codes,
    ).run(job.recipe.tune_steps, show=job.progress)
    found = {
        f"{TUNED}{name}.{part}": tensor
        for name, stack in tuned.items()
        for part, tensor in stack.stored().items()
    }
    job.journal.put(_DONE, found, {})


def draw(budgets: Budgets, targets: Sequence[float]) -> Callable[[float], list[int]]:
    """Levels for a number from 0 to 1: a share of the way from the floor to the top; with `targets`
    in bits a weight the lower half of the numbers goes to what lies within 5% of one of them."""
    low, high = budgets.floor_bytes, budgets.total_bytes
    weights = sum(budgets.weights)

    def levels(number: float) -> list[int]:
        size = low + number * (high - low)
        if targets:
            which, within = divmod(2 * number * len(targets), 1)
            near = 0.95 + 0.1 * within
            size = low + (2 * number - 1) * (high - low)
            if number < 0.5:
                size = near * targets[int(which)] * weights / 8
        return budgets.levels(int(min(max(size, low), high)))[0]

    return levels


def _budgets(job: Job, entries: list[StackEntry]) -> Budgets:
    """What the lower planes cost, along their order as it is predicted.

    Along the measured order some levels lie above the hull and are hardly ever drawn: they would
    stay untuned.
    """
    sizes = [e.spec.bytes() for e in entries]
    losses = [job.journal.notes[f"{LOWER.prefix}{e.name}"]["losses"] for e in entries]
    return Budgets(
        stack_bytes=sizes,
        fixed_bytes=0,
        order=predicted_order(sizes, losses),
        weights=[e.rows * e.columns for e in entries],
    )
