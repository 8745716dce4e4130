"""Writes predicted task scores for a person: a sentence for each, then all sizes in a table.

Computes nothing; see `metrics.gap.predicted_scores`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bitstack.machine.sizes import format_bytes
from bitstack.metrics.tasks.predicted import ScoreAt

if TYPE_CHECKING:  # they import torch
    from bitstack.metrics.gap.predicted_scores import PredictedScores


def score_lines(scores: "PredictedScores") -> list[str]:
    """The predicted scores in words, and then those of every size by task and metric."""
    return [*_sentences(scores), *_table(scores), *_left_out(scores)]


def _sentences(scores: "PredictedScores") -> Iterator[str]:
    for size, row in scores.sizes:
        for one in row:
            if not one.measured:
                kept = "" if one.recovery is None else f", {one.recovery:.1%} of the original's"
                yield (
                    f"At {size.budget} {one.value:.1%} right answers are predicted in {one.task} "
                    f"({one.metric}){kept}; higher is better.{_doubt(one)}"
                )


def _doubt(one: ScoreAt) -> str:
    if not one.extrapolated:
        return ""
    return " Unsure: smaller than every measured size; give --measure a smaller budget."


def _table(scores: "PredictedScores") -> Iterator[str]:
    _, wholes = scores.sizes[0]
    for i, whole in enumerate(wholes):
        yield f"{whole.task} ({whole.metric}), {scores.questions[whole.task]} questions"
        yield f"  {'size':<12}{'bytes':>12}{'KL':>9}{'right':>8}  {'95% interval':<18}of original"
        for size, row in scores.sizes:
            one, ends = row[i], row[i].interval
            span = "" if ends is None else f"{ends.low:.1%} to {ends.high:.1%}"
            kept = "" if one.recovery is None else f"{one.recovery:.1%}"
            yield (
                f"  {size.budget:<12}{format_bytes(size.resident_bytes):>12}{size.kl:>9.4f}"
                f"{one.value:>8.1%}  {span:<18}{kept:<7}"
                f"{'measured' if one.measured else 'predicted'}"
            )
    yield (
        "An interval of a predicted score says where measuring the same questions would end, one "
        "of a measured score where other questions of the kind would."
    )
    yield f"KL: nats per token from the original on {scores.text}."


def _left_out(scores: "PredictedScores") -> Iterator[str]:
    if scores.left_out:
        yield f"Not predicted, because there are no choices: {', '.join(scores.left_out)}."
