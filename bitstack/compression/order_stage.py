"""The order of a job's stacks: as it is predicted, as measurements correct it, or between the two.

Puts together what `order` works on. How a loss is measured is the business of `measure`.
"""

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill
from bitstack.compression.costs import few_samples
from bitstack.compression.job import Job
from bitstack.ordering import greedy as order
from bitstack.ordering.layer_loss import LayerMeasure
from bitstack.ordering.reference import Reference


def rank(job: Job) -> list[int]:
    """Stack indices as the recipe orders the finished planes.

    With text several orders are made from the predicted losses and from what is measured of every
    role, and the one along which the whole model is nearest to the original is taken. Measured by
    themselves, against finished stacks, levels that were tuned look dearer than they are among
    those they were tuned with; how much of it is to be believed depends on how long that was.
    """
    stacks = job.stacks
    if job.recipe.order == "perplexity":
        # The published sort takes the first windows of the calibration.
        measure = _measure(job, job.runner(samples=job.recipe.order_samples))
        return order.perplexity_order([e.levels for e in stacks], measure, show=job.progress)
    losses = [job.journal.notes[e.name]["losses"] for e in stacks]
    sizes = [e.spec.bytes() for e in stacks]
    if job.text is None:
        return order.predicted_order(sizes, losses)
    likely = Spill(job.journal.path / "likely")
    measure = _measure(job, job.runner(job.text.order), likely)
    roles = [entry.matrix.role for entry in stacks]
    measured = order.by_role(losses, roles, measure, show=job.progress)
    found = order.between(sizes, losses, measured)
    paths = [_path(job, each) for each in found]
    few = few_samples(job.recipe, job.text.length)
    measure = _measure(job, job.runner(job.text.order, samples=few), likely)
    return found[order.nearest(paths, measure, show=job.progress)]


def _path(job: Job, found: list[int]) -> list[list[int]]:
    """Levels along an order: at the recipe's targets, or at sizes each as many times the last."""
    budgets = job.budgets(found)
    low, high = budgets.floor_bytes, budgets.total_bytes
    asked = [bits * sum(budgets.weights) / 8 for bits in job.recipe.target_bits]
    asked = [size for size in asked if low <= size <= high]
    step = (high / low) ** (1 / (order.TRIED + 1))
    asked = asked or [low * step**i for i in range(1, order.TRIED + 1)]
    return [budgets.levels(int(size))[0] for size in asked]


def _measure(job: Job, runner: LayerRunner, likely: Spill | None = None) -> LayerMeasure:
    """The loss of text, or with `likely` how far from the original."""
    reference = Reference(runner, likely) if likely else None
    return LayerMeasure(runner, job.journal, job.stacks, job.stored_dense, reference)
