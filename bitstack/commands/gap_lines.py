"""Writes gaps between models and best teachers for a person: a sentence, then one fact a line.

Computes nothing; see `metrics.gap`.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bitstack.commands.metric_lines import aligned, between, counted, counted_between
from bitstack.machine.sizes import format_bytes
from bitstack.metrics.gap.fit import GapLine
from bitstack.metrics.gap.law import BestTeacher

if TYPE_CHECKING:  # they import torch
    from bitstack.metrics.gap.capacity_gap import Gap
    from bitstack.metrics.gap.measured import MeasuredGap

# KL in nats per token below which the student's predictions are said to be so.
WORDS = (
    (0.01, "practically the teacher's"),
    (0.1, "close to the teacher's"),
    (0.5, "noticeably different from the teacher's"),
    (2.0, "far from the teacher's"),
    (math.inf, "unlike the teacher's: the student is broken"),
)


def gap_lines(measured: "MeasuredGap") -> list[str]:
    """The gap between two models: over all tokens, then by position and by frequency."""
    gap = measured.gap
    lines = [_gap_sentence(gap.whole)]
    lines += aligned(
        {
            **_gap(gap.whole),
            "teacher": f"{measured.teacher}, {format_bytes(measured.teacher_bytes)} resident",
            "student": f"{measured.student}, {format_bytes(measured.student_bytes)} resident",
            "measured on": f"{gap.whole.tokens} tokens in {gap.documents} documents of "
            f"{measured.text}, window {gap.window}, intervals over {gap.unit}s",
        }
    )
    lines += _parts(
        "By position: how many tokens of the window stand before the predicted one", gap.by_position
    )
    lines += _parts(
        "By frequency: how often the predicted token occurs in the text", gap.by_frequency
    )
    return lines


def _gap_sentence(one: "Gap") -> str:
    word = next(words for most, words in WORDS if one.kl < most)
    more = math.expm1(one.loss_gap)
    side = "higher" if more >= 0 else "lower"
    return (
        f"The student's predictions are {word}. KL divergence {one.kl:.3g} nats per token; lower "
        f"is better, 0 is the same. For {one.agreement:.1%} of the tokens both find the same token "
        f"likeliest, and the student's perplexity is {abs(more):.1%} {side}."
    )


def _parts(title: str, parts: "dict[str, Gap]") -> Iterator[str]:
    yield title
    yield f"  {'':<10}{'tokens':>9}{'KL':>9}{'loss gap':>10}{'agreement':>11}"
    for part, one in parts.items():
        figures = f"{one.kl:>9.4f}{one.loss_gap:>10.4f}{one.agreement:>11.1%}"
        yield f"  {part:<10}{one.tokens:>9}{figures}"


def _gap(one: "Gap") -> dict[str, str]:
    interval = one.intervals
    return {
        "KL": f"{one.kl:.5f} nats {between(interval['kl'], '.5f')}",
        "loss gap": f"{one.loss_gap:.5f} nats {between(interval['loss_gap'], '.5f')}",
        "top-1 agreement": f"{one.agreement:.2%} {between(interval['agreement'], '.2%')}",
        "losses": f"{one.teacher_loss:.4f} teacher, {one.student_loss:.4f} student, nats per token",
    }


def teacher_lines(best: BestTeacher) -> list[str]:
    """The best size of a teacher by a law, and where the law comes from."""
    outside = " It lies outside the sizes of the law: a guess." if best.extrapolated else ""
    lines = {
        "best teacher": f"{counted(best.teacher)} parameters {counted_between(best.interval)}, "
        f"{best.ratio:.2f} times the student",
        "interval": best.interval_means,
        "law": f"{best.law}: {best.scope}",
    }
    if best.student_loss is not None:
        lines["student's loss"] = f"{best.student_loss:.4f} nats per token"
    return [
        f"A student of {counted(best.student)} parameters learns best from a teacher of about "
        f"{counted(best.teacher)}, by this law: a larger or a smaller teacher makes it worse."
        f"{outside}",
        *aligned(lines),
    ]


def gap_fit_lines(line: GapLine) -> list[str]:
    """The best teacher of every student size, and the line fitted through them."""
    lines = {
        f"student {counted(best.student)}": f"best teacher {counted(best.teacher)}, "
        f"loss {best.loss:.4f}, of {best.teachers_tried} tried"
        + ("" if best.edge is None else f"; the {best.edge} tried, so no optimum")
        for best in line.optima
    }
    if line.slope is None:
        return [
            "These runs give no rule for the best teacher.",
            *aligned(lines | {"line": f"none: {line.reason}"}),
        ]
    return [
        f"In these runs the best teacher has {line.ratio:.2f} times the parameters of its student.",
        *aligned(
            lines
            | {
                "slope": f"{line.slope:.4g} {between(line.slope_interval)}",
                "intercept": f"{line.intercept:.4g} {between(line.intercept_interval)}",
                "R²": "not defined" if line.r_squared is None else f"{line.r_squared:.4f}",
            }
        ),
    ]
