"""Chooses the order of a job's stacks: as predicted, as measurements correct it, or between.

Puts together the parts of `ordering`. Does not sort; see `ordering.greedy`. Does not measure
losses; see `ordering.layer_loss`.
"""

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill
from bitstack.compression.job import Job
from bitstack.compression.work import trial_windows
from bitstack.ordering import greedy
from bitstack.ordering.layer_loss import LayerwiseLoss
from bitstack.ordering.reference import Reference


def choose_order(job: Job) -> list[int]:
    """Returns stack indices in the order in which the finished planes are loaded.

    With text and `order: loss`, several orders are made from the predicted losses and from what is
    measured of every role, and the one along which the whole model is nearest to the original is
    taken. Neither is right alone: measured one role at a time, against finished stacks, levels that
    were tuned look worse than they are among those they were tuned with; how much depends on the
    steps of tuning.
    """
    stacks = job.stacks
    if job.recipe.order == "perplexity":
        # The published sort takes the first windows of the calibration.
        measure = _loss(job, job.runner(samples=job.recipe.order_samples))
        return greedy.perplexity_order([e.levels for e in stacks], measure, show=job.progress)
    losses = job.losses()
    sizes = [e.spec.bytes() for e in stacks]
    if job.text is None or job.recipe.order == "predicted" or _is_late(job):
        return greedy.predicted_order(sizes, losses)
    spill = Spill(job.journal.path / "reference")
    measure = _loss(job, job.runner(job.text.order_windows), spill)
    roles = [entry.matrix.role for entry in stacks]
    measured = greedy.corrected_by_role(losses, roles, measure, show=job.progress)
    orders = greedy.interpolated_orders(sizes, losses, measured)
    paths = [_path(job, order) for order in orders]
    few = trial_windows(job.recipe, job.text.length)
    measure = _loss(job, job.runner(job.text.order_windows, samples=few), spill)
    return orders[greedy.best_path(paths, measure, show=job.progress)]


def _is_late(job: Job) -> bool:
    if job.clock is None or job.clock.left() > 0:
        return False
    job.clock.cut("the order was predicted, not measured")
    return True


def _path(job: Job, order: list[int]) -> list[list[int]]:
    """Levels of all stacks along an order: at the recipe's target bits, or else at sizes that grow
    by the same factor from the smallest model to the largest."""
    budgets = job.budgets(order)
    low, high = budgets.floor_bytes, budgets.total_bytes
    sizes = [bits * sum(budgets.weights) / 8 for bits in job.recipe.target_bits]
    sizes = [size for size in sizes if low <= size <= high]
    step = (high / low) ** (1 / (greedy.TRIED_SIZES + 1))
    sizes = sizes or [low * step**i for i in range(1, greedy.TRIED_SIZES + 1)]
    return [budgets.levels(int(size))[0] for size in sizes]


def _loss(job: Job, runner: LayerRunner, spill: Spill | None = None) -> LayerwiseLoss:
    """The loss of the text, or with `spill` the divergence from the original, kept there."""
    reference = Reference(runner, spill) if spill else None
    return LayerwiseLoss(runner, job.journal, job.stacks, job.stored_dense, reference)
