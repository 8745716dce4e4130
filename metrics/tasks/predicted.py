"""Puts measured and predicted task scores of a container's sizes together.

The scores of a size whose tasks were not run are predicted from its KL divergence and from the
sizes whose tasks were. Does not predict itself, see `metrics.tasks.prediction`; does not measure,
see `metrics.gap.predicted_scores`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bitstack.metrics.statistics.bootstrap import Interval
from bitstack.metrics.tasks.prediction import Answered, predict_score
from bitstack.metrics.tasks.scores import TaskScore

ORIGINAL = "original"


@dataclass(frozen=True)
class Size:
    """The original, or a container at one budget."""

    budget: str  # as given, or "original"
    budget_bytes: int | None
    resident_bytes: int  # of the whole model
    kl: float  # from the original, nats per token
    scores: tuple[TaskScore, ...] = ()  # measured, with margins; empty where the tasks did not run


@dataclass(frozen=True)
class ScoreAt:
    """One score of one size, measured or predicted."""

    task: str
    metric: str  # "acc" or "acc_norm"
    value: float
    interval: Interval | None  # of a predicted one: where measuring the same questions would end
    recovery: float | None  # share of the original's score
    measured: bool
    extrapolated: bool  # predicted for a KL above that of every measured size


def fill_in(sizes: Sequence[Size], *, seed: int = 0) -> list[tuple[Size, list[ScoreAt]]]:
    """Returns every size with its scores, predicted where the tasks were not run.

    Args:
        sizes: The original (KL 0) and at least one other size with scores, and any without.
        seed: Of the random draws behind the intervals.

    Returns:
        The sizes by KL, each with one score for every task and metric that has margins.
    """
    ran = [size for size in sizes if size.scores]
    wholes = [one for one in min(ran, key=lambda size: size.kl).scores if one.margins]
    answered = {
        (one.task, one.metric): [
            Answered(size.kl, score.margins)
            for size in ran
            for score in size.scores
            if (score.task, score.metric) == (one.task, one.metric)
        ]
        for one in wholes
    }
    return [
        (size, [_score(size, whole, answered[whole.task, whole.metric], seed) for whole in wholes])
        for size in sorted(sizes, key=lambda size: size.kl)
    ]


def _score(size: Size, whole: TaskScore, answered: Sequence[Answered], seed: int) -> ScoreAt:
    value: float
    if size.scores:
        (own,) = (s for s in size.scores if (s.task, s.metric) == (whole.task, whole.metric))
        value, interval, extrapolated = own.value, own.interval, False
    else:
        guess = predict_score(answered, size.kl, seed=seed)
        value, interval, extrapolated = guess.value, guess.interval, guess.extrapolated
    recovery = value / whole.value if whole.value > 0 else None
    return ScoreAt(
        whole.task, whole.metric, value, interval, recovery, bool(size.scores), extrapolated
    )
