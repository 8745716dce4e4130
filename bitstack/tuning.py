"""The lower planes of a run tuned, between their decomposition and that of the planes above.

Puts the packed model together from the journal, and what the tuner made of it back. How it is tuned
is `tune`'s business.
"""

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
    """Scales and codes of the lower planes, tuned along their order as it is predicted, into the
    journal."""
    if _DONE in job.journal:
        return
    entries = job.made(LOWER)
    budgets = _budgets(job, entries)
    low, high = budgets.floor_bytes, budgets.total_bytes
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
        lambda share: budgets.levels(low + int(share * (high - low)))[0],
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


def _budgets(job: Job, entries: list[StackEntry]) -> Budgets:
    """What the lower planes cost and earn by what was predicted of them."""
    sizes = [e.spec.bytes() for e in entries]
    losses = [job.journal.notes[f"{LOWER.prefix}{e.name}"]["losses"] for e in entries]
    weights = [e.rows * e.columns for e in entries]
    order = predicted_order(sizes, losses)
    return Budgets(stack_bytes=sizes, fixed_bytes=0, order=order, weights=weights)
