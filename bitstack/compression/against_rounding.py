"""Warns where a run without text lost more than rounding to nearest in groups would have.

Without text all weights count alike, so the squared error of the weights is what both minimise.
Does not round; see `decompose.rounding`.
"""

import math

from bitstack.compression.job import Job
from bitstack.container.entries import StackEntry
from bitstack.decompose.rounding import rounding_bits

_LEAST = 1e-12  # relative squared error; below it a matrix is as good as exact


def levels_behind_rounding(stacks: list[StackEntry], rounded: dict[str, list[float]]) -> list[int]:
    """Returns the levels, from 2 on, at which rounding every matrix loses less at equal bytes.

    Rounding to j bits takes more bytes than level j. What these would do for level j is counted: a
    bit for every weight divides a squared error by four. Matrices count by their weights.

    Args:
        rounded: By name, the relative squared errors of rounding a matrix to 1, 2, … bits.
    """
    behind = []
    for level in range(2, min(entry.levels for entry in stacks) + 1):
        ratio = extra = 0.0  # sums over weights: of logarithms of error ratios, of bits
        for entry in stacks:
            own, other = entry.errors[level - 1], rounded[entry.name][level - 1]
            weights = entry.rows * entry.columns
            ratio += weights * math.log(max(own, _LEAST) / max(other, _LEAST))
            bits = rounding_bits(entry.rows, entry.columns, level)
            extra += weights * bits - 8 * entry.spec.bytes()[level - 1]
        if ratio > math.log(4) * extra:
            behind.append(level)
    return behind


def warning(job: Job) -> str | None:
    """Returns what to tell the user of a finished decomposition without text; None if nothing."""
    rounded = {entry.name: job.journal.notes[entry.name]["rounded"] for entry in job.stacks}
    levels = levels_behind_rounding(job.stacks, rounded)
    if not levels:
        return None
    return (
        f"warning: at level {', '.join(map(str, levels))} the weights are further from the "
        "original than rounded ones of the same bytes (groups of 64); a text would help"
    )
