"""Reads by how much each question was answered rightly or wrongly: the margin.

The margin is the log-likelihood of the right choice minus that of the best wrong one, in nats.
Where it is above 0 the answer is right. Only questions with choices have one. Does not predict
scores from margins; see `metrics.tasks.prediction`.
"""

import math
from collections.abc import Sequence
from typing import Any

PER_CHARACTER = "acc_norm"  # the metric that divides by the characters of the choice


def read_margins(samples: Sequence[dict[str, Any]], metric: str) -> tuple[float, ...]:
    """Returns the margin of every question, in nats; for `acc_norm` in nats per character.

    Args:
        samples: lm-eval's records of the questions, in order.
        metric: "acc" or "acc_norm"; any other has no margins.

    Returns:
        One margin for each question; empty where the score is not the share of positive margins,
        for example in a task without choices or with several right ones.
    """
    if metric not in ("acc", PER_CHARACTER):
        return ()
    margins = [_margin(sample, metric) for sample in samples]
    known = [margin for margin in margins if margin is not None and math.isfinite(margin)]
    # Where both are alike, either may be taken for the answer.
    agree = all(
        margin == 0 or (margin > 0) == bool(sample[metric])
        for margin, sample in zip(known, samples, strict=False)
    )
    return tuple(known) if agree and len(known) == len(samples) else ()


def _margin(sample: dict[str, Any], metric: str) -> float | None:
    right, answers = sample.get("target"), sample.get("filtered_resps", ())
    if not isinstance(right, int) or len(answers) < 2 or not 0 <= right < len(answers):
        return None
    try:
        logs = [float(log) for log, _ in answers]
    except (TypeError, ValueError):  # a task that writes text: no log-likelihoods
        return None
    if metric == PER_CHARACTER:
        choices = [choice.lstrip() for _, choice in sample["arguments"]]  # without the delimiter
        logs = [log / max(1, len(choice)) for log, choice in zip(logs, choices, strict=True)]
    return logs[right] - max(log for i, log in enumerate(logs) if i != right)
