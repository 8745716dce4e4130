"""The order of a job's stacks: predicted losses, corrected by what a few windows say.

Puts together what `order` works on. How a loss is measured is the business of `measure`.
"""

from bitstack import order
from bitstack.job import Job
from bitstack.measure import LayerMeasure
from bitstack.predict import probed
from bitstack.reference import Reference
from bitstack.streaming import Spill


def rank(job: Job) -> list[int]:
    """Stack indices as the recipe orders the finished planes.

    With text the predicted losses of the lower levels are set right by measured ones.
    """
    stacks = job.stacks
    runner = job.runner(samples=job.recipe.order_samples)
    measure = LayerMeasure(runner, job.journal, stacks, job.stored_dense)
    if job.recipe.order == "perplexity":
        return order.perplexity_order([e.levels for e in stacks], measure, show=job.progress)
    losses = [job.journal.notes[e.name]["losses"] for e in stacks]
    if job.text is not None:
        roles = [e.matrix.role for e in stacks]
        measure.reference = Reference(runner, Spill(job.journal.path / "likely"))
        levels, alone = probed(job.recipe)
        losses = order.corrected(
            losses, roles, measure, probed=levels, alone=alone, show=job.progress
        )
    return order.predicted_order([e.spec.bytes() for e in stacks], losses)
