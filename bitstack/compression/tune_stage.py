"""Plans the tuning of a job: which planes learn when, and which budgets are drawn.

Puts the packed model together from the journal, and writes what the tuner made of it back after
every phase. Does not tune; see `tuning.tuner`.
"""

from collections.abc import Callable, Sequence

import torch

from bitstack.calibration.spill import Spill
from bitstack.calibration.windows import TUNING_TOKENS
from bitstack.compression.job import Job
from bitstack.container.blocks import StackSpec
from bitstack.container.budget import Budgets
from bitstack.container.entries import DenseEntry, StackEntry
from bitstack.nn.assemble import assemble
from bitstack.ordering.greedy import predicted_order
from bitstack.original.skeleton import skeleton
from bitstack.recipe import Recipe
from bitstack.tuning.pace import Pace
from bitstack.tuning.tuned_stack import Planes, learning_chains, make_tunable
from bitstack.tuning.tuner import Phase, Tuner

_TUNED = "~tuned"  # key of the journal; no matrix has this name
_FINISH = 0.03  # of the time of a clock, for what comes after tuning
_STEP_SHARES = (0.5, 0.3, 0.2)  # of the steps: lower half of the planes; all but the last; the last


def tune(job: Job) -> None:
    """Runs every phase of tuning that the journal does not hold yet, and writes it there.

    Codes learn in all chains but the highest of several: there they are as good as the search made
    them, and scales alone learn. Codes of embedding and head never learn: so few tokens use a row
    that it would learn these by heart.
    """
    assert job.text is not None
    entries, journal = job.stacks, job.journal
    plan = plan_phases(job.recipe, entries, _budgets(job))
    done = journal.notes[_TUNED]["phases"] if _TUNED in journal else 0
    if done == len(plan):
        return
    dense = [DenseEntry.of(d) for d in job.dense]
    empty = skeleton(job.source.config, torch.float32)
    model = assemble(empty, entries, dense, journal, [entry.levels for entry in entries])
    codes_learn = [job.recipe.code_lr > 0 and entry.layer is not None for entry in entries]
    stacks = make_tunable(model.to(job.device), entries, journal.get, codes_learn)
    tuner = Tuner(
        model,
        list(stacks.values()),
        job.runner(job.text.tuning_windows, batch_tokens=TUNING_TOKENS),
        Spill(journal.path / "targets"),
        seed=job.recipe.seed,
        scale_rate=job.recipe.scale_lr,
        code_rate=job.recipe.code_lr,
    )
    pace = pace_of(job, plan, done)

    def write(finished: int) -> None:
        parts = {name: stack.stored() for name, stack in stacks.items()}
        tensors = {f"{name}.{part}": t for name, own in parts.items() for part, t in own.items()}
        journal.put(_TUNED, tensors, {"phases": finished})

    tuner.run(plan, pace, write, done=done, show=job.progress)
    if job.clock and pace.added > 0:
        job.clock.change(f"there was time for {pace.added} more steps of tuning")
    elif job.clock and pace.added < 0:
        job.clock.cut(f"{-pace.added} steps of tuning were left out")


def pace_of(job: Job, plan: Sequence[Phase], done: int) -> Pace:
    """Returns the steps of a plan whose first `done` phases are finished: with a clock as many of
    the others as fit, up to those that the recipe asks for."""
    steps, clock = [phase.steps for phase in plan], job.clock
    if clock is None:
        return Pace(steps)
    wanted = clock.wanted.tune_steps + clock.wanted.fine_steps
    return Pace(steps, lambda: clock.left() - _FINISH * clock.seconds, most=wanted)


def plan_phases(recipe: Recipe, entries: Sequence[StackEntry], budgets: Budgets) -> list[Phase]:
    """Returns the phases of tuning, from coarse to fine.

    First the lower planes of each chain learn, then those above them but the last, then the last
    alone, each with budgets of as many levels as learn; then the scales of the highest chain.

    Neighbouring levels are drawn together, as they will be used: codes that learnt among their like
    alone cancel one another's errors, and a stack raised from among them would leave its partners
    with theirs. The scales of the highest chain wait for the end: among coarse levels they would
    learn to cancel errors that are gone where they are used most.
    """
    last = max(learning_chains(entry.spec)[-1][-1] for entry in entries)
    top = max(entry.levels for entry in entries)
    # Parts in which the same planes learn are one phase: short chains have fewer.
    steps: dict[tuple[tuple[Planes, ...], ...], int] = {}
    left = recipe.tune_steps
    for part, share in enumerate(_STEP_SHARES):
        own = left if part == len(_STEP_SHARES) - 1 else round(share * recipe.tune_steps)
        planes = tuple(_planes(entry.spec, part) for entry in entries)
        steps[planes], left = steps.get(planes, 0) + own, left - own
    parts = [  # (steps, planes, lowest level drawn, highest level drawn)
        (own, planes, max(1, *(chains[0].kept for chains in planes)), last + part)
        for part, (planes, own) in enumerate(steps.items())
    ]
    if last < top:
        finest = tuple(_planes(entry.spec, len(_STEP_SHARES)) for entry in entries)
        parts.append((recipe.fine_steps, finest, last, top))
    phases = []
    for own, planes, low, high in parts:
        ends = [[min(level, e.levels) for e in entries] for level in (low, high)]
        sizes = map(budgets.resident_bytes, ends)
        phases.append(Phase(own, planes, level_draw(budgets, recipe.target_bits, *sizes)))
    return phases


def _planes(spec: StackSpec, part: int) -> tuple[Planes, ...]:
    """What learns of each chain in one part of tuning.

    The first part keeps no planes, the next ones keep the lower half of the chain's levels, all but
    the last, and all. The highest chain, whose codes do not learn, is kept until the last part.
    """
    planes = []
    for chain in spec.chains:
        top, half = chain[-1], (chain[0] + chain[-1]) // 2
        kept_by_part = [0, min(half, top - 1), top - 1, top]
        if chain not in learning_chains(spec):
            kept_by_part = [top, top, top, 0]
        kept = kept_by_part[part]
        planes.append(Planes(kept, next((p for p in kept_by_part[part:] if p > kept), top)))
    return tuple(planes)


def level_draw(
    budgets: Budgets, target_bits: Sequence[float], low: int, high: int
) -> Callable[[float], list[int]]:
    """Returns a function from a number in [0, 1) to the levels of all stacks.

    The number is a share of the way from `low` to `high` bytes. With `target_bits`, in bits a
    weight, the lower half of the numbers goes to sizes within 5% of one of these, as far as they
    lie between `low` and `high`.
    """
    weights = sum(budgets.weights)
    reached = [bits for bits in target_bits if low <= bits * weights / 8 <= high]

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
    """What the levels cost along the predicted order.

    Along the measured order some levels lie above the hull and are hardly ever drawn: they would
    stay untuned.
    """
    sizes = [entry.spec.bytes() for entry in job.stacks]
    return job.budgets(predicted_order(sizes, job.losses()))
