"""The order of a job's stacks: predicted losses, corrected by what a few windows say.

Puts together what `order` works on. How a loss is measured is the business of `measure`.
"""

from bitstack import order
from bitstack.job import Job
from bitstack.measure import LayerMeasure
from bitstack.predict import few_samples, probed
from bitstack.reference import Reference
from bitstack.streaming import LayerRunner, Spill


def rank(job: Job) -> list[int]:
    """Stack indices as the recipe orders the finished planes.

    With text the predicted losses of the lower levels are set right by measured ones.
    """
    stacks = job.stacks
    if job.recipe.order == "perplexity":
        # The published sort takes the first windows of the calibration.
        measure = _measure(job, job.runner(samples=job.recipe.order_samples))
        return order.perplexity_order([e.levels for e in stacks], measure, show=job.progress)
    losses = [job.journal.notes[e.name]["losses"] for e in stacks]
    if job.text is not None:
        losses = _measured(job, losses)
    return order.predicted_order([e.spec.bytes() for e in stacks], losses)


def _measured(job: Job, losses: list[list[float]]) -> list[list[float]]:
    """The lowest levels stack by stack, where levels were tuned; those above role by role."""
    assert job.text is not None
    top, alone = probed(job.recipe)
    roles = [entry.matrix.role for entry in job.stacks]
    likely = Spill(job.journal.path / "likely")
    measure = _measure(job, job.runner(job.text.order), likely)
    levels = range(alone + 1, top + 1)
    losses = order.by_role(losses, roles, measure, levels, show=job.progress)
    if alone:
        few = few_samples(job.recipe, job.text.length)
        measure = _measure(job, job.runner(job.text.order, samples=few), likely)
        measure.spill = Spill(job.journal.path / "states")
        losses = order.by_stack(losses, measure, alone, show=job.progress)
    return losses


def _measure(job: Job, runner: LayerRunner, likely: Spill | None = None) -> LayerMeasure:
    """The loss of text, or with `likely` how far from the original."""
    reference = Reference(runner, likely) if likely else None
    return LayerMeasure(runner, job.journal, job.stacks, job.stored_dense, reference)
