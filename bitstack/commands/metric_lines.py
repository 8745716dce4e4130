"""Writes the results of the metrics for a person, one fact a line.

Computes nothing; see `bitstack.metrics`. Every function returns lines to print.
"""

from typing import Any

from bitstack.machine.sizes import format_bytes
from bitstack.metrics.capacity.measured import MeasuredCapacity
from bitstack.metrics.capacity.series import Prediction
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.density.scoring import AnswerLoss, Scored
from bitstack.metrics.density.trend import Forecast
from bitstack.metrics.gap.capacity_gap import Gap
from bitstack.metrics.gap.fit import GapLine
from bitstack.metrics.gap.law import BestTeacher
from bitstack.metrics.gap.measured import MeasuredGap
from bitstack.metrics.loss.order_check import OrderCheck
from bitstack.metrics.statistics.bootstrap import Interval

WIDTH = 22  # columns of the name of a fact


def between(interval: Interval | None, form: str = ".4g") -> str:
    """Returns an interval in brackets, with its confidence level if it has one."""
    if interval is None:
        return "(no interval)"
    level = "" if interval.level is None else f"{interval.level:.0%} "
    return f"({level}{interval.low:{form}} to {interval.high:{form}})"


def capacity_lines(measured: MeasuredCapacity) -> list[str]:
    """The information capacity of one model."""
    one = measured.capacity
    unit = "token" if one.variant == "faithful" else "byte"
    lost = f", {one.unknown_tokens} of them unknown" if one.unknown_tokens else ""
    bias = f", bias {one.bias:g}" if one.variant == "faithful" else ""
    return _aligned(
        {
            "model": f"{measured.model}, {format_bytes(measured.resident_bytes)} resident",
            "information capacity": f"{one.information_capacity:.5f} "
            f"{between(one.interval, '.5f')}",
            "text size, NLL": f"{one.text_size:.4f}, {one.nll:.4f} bits per {unit}",
            "cost": f"{one.cost:.4g} {one.denominator} per {unit} "
            f"({one.flops_per_token:.4g} FLOPs per token)",
            "measured on": f"{one.scored_tokens} tokens{lost} in {one.documents} documents of "
            f"{measured.text}, variant {one.variant}{bias}, length {one.max_length}"
            + (f", {one.skipped_documents} too short" if one.skipped_documents else ""),
        }
    )


def prediction_line(model: str, prediction: Prediction) -> str:
    """The loss predicted for another model of a series."""
    return _line(
        "predicted NLL",
        f"{prediction.nll:.4f} bits {between(prediction.interval, '.4f')} for {model}, "
        f"from {prediction.sources} model{'s' * (prediction.sources > 1)}",
    )


def law_lines(law: DensityLaw) -> list[str]:
    """The constants of the laws of loss and score, with their intervals."""
    constants = {"reference models": f"{len(law.references)}, D₀ {law.reference_tokens:.4g} tokens"}
    for part in (law.loss, law.score):
        intervals = part.intervals
        constants |= {
            name: f"{value:.5g} {between(intervals[name])}"
            for name, value in part.parameters.items()
        }
    return _aligned(constants)


def density_lines(scored: Scored) -> list[str]:
    """The densities of one model, or the reason why they are not defined."""
    one = scored.density
    head = {"model": f"{scored.model}, {one.parameters:.4g} parameters"}
    if one.stored_bytes is not None:
        head["model"] += f", {format_bytes(one.stored_bytes)} resident"
    if one.reason is not None:
        return _aligned(head | {"density": one.reason})
    outside = ", outside the sizes of the series" if one.extrapolated else ""
    return _aligned(
        head
        | {
            "loss": f"{one.loss:.4f} nats",
            "effective parameters": f"{one.effective_parameters:.4g} {between(one.interval)}"
            + outside,
            "density": f"{one.density:.4g} {between(one.density_interval)}",
            "density by bytes": "not defined: no bytes"
            if one.byte_density is None
            else f"{one.byte_density:.4g} {between(one.byte_interval)}",
        }
    )


def loss_lines(measured: AnswerLoss) -> list[str]:
    """The loss of one model on answers, given their instructions."""
    one = measured.loss
    return _aligned(
        {
            "model": f"{measured.model}, {measured.parameters} parameters",
            "nats per answer": f"{one.nats_per_answer:.4f} {between(one.interval)}",
            "nats per token": f"{one.nats_per_token:.4f} {between(one.token_interval)}",
            "bits per byte": f"{one.bits_per_byte:.4f}",
            "measured on": f"{one.pairs} pairs, {one.tokens} tokens of answers",
        }
    )


def trend_lines(forecast: Forecast) -> list[str]:
    """The growth of density, and the predicted day of `--share`."""
    trend = forecast.trend
    lines = {
        "growth per day": f"{trend.growth:.5g} {between(trend.growth_interval)}",
        "doubling": "none: density does not grow"
        if trend.doubling_days is None
        else f"{trend.doubling_days:.1f} days {between(trend.doubling_interval, '.1f')}",
    }
    if forecast.fixed_price_doubling_days is not None:
        lines["at a fixed price"] = f"{forecast.fixed_price_doubling_days:.1f} days"
    if trend.r_squared is not None:
        lines["R²"] = f"{trend.r_squared:.4f}"
    lines["envelope"] = ", ".join(trend.envelope)
    if forecast.day is not None:
        interval = forecast.day_interval
        between_days = "no interval" if interval is None else " to ".join(interval)
        lines["as good as of"] = (
            f"{forecast.since}, with {forecast.share:g} of the size: {forecast.day} "
            f"({between_days})"
        )
    return _aligned(lines)


def gap_lines(measured: MeasuredGap) -> list[str]:
    """The gap between two models: over all tokens, by position and by frequency."""
    gap = measured.gap
    lines = _aligned(
        {
            "teacher": f"{measured.teacher}, {format_bytes(measured.teacher_bytes)} resident",
            "student": f"{measured.student}, {format_bytes(measured.student_bytes)} resident",
            **_gap(gap.whole),
            "measured on": f"{gap.whole.tokens} tokens in {gap.documents} documents of "
            f"{measured.text}, window {gap.window}, intervals over {gap.unit}s",
        }
    )
    for name, parts in (("position", gap.by_position), ("frequency", gap.by_frequency)):
        lines.append(f"{name:<12}{'tokens':>9}{'KL':>9}{'loss gap':>10}{'agreement':>11}")
        for part, one in parts.items():
            figures = f"{one.kl:>9.4f}{one.loss_gap:>10.4f}{one.agreement:>11.1%}"
            lines.append(f"  {part:<10}{one.tokens:>9}{figures}")
    return lines


def _gap(one: Gap) -> dict[str, str]:
    interval = one.intervals
    return {
        "KL": f"{one.kl:.5f} nats {between(interval['kl'], '.5f')}",
        "loss gap": f"{one.loss_gap:.5f} nats {between(interval['loss_gap'], '.5f')}",
        "top-1 agreement": f"{one.agreement:.2%} {between(interval['agreement'], '.2%')}",
        "losses": f"{one.teacher_loss:.4f} teacher, {one.student_loss:.4f} student, nats per token",
    }


def teacher_lines(best: BestTeacher) -> list[str]:
    """The best size of a teacher by a law, and where the law comes from."""
    lines = {
        "best teacher": f"{best.teacher:.4g} parameters {between(best.interval)}, "
        f"{best.ratio:.2f} times the student",
        "interval": best.interval_means,
        "law": f"{best.law}: {best.scope}",
    }
    if best.student_loss is not None:
        lines["student's loss"] = f"{best.student_loss:.4f} nats per token"
    if best.extrapolated:
        lines["note"] = "the student lies outside the law's sizes: extrapolated"
    return _aligned(lines)


def gap_fit_lines(line: GapLine) -> list[str]:
    """The best teacher of every student size, and the line fitted through them."""
    lines = {
        f"student {best.student:.4g}": f"best teacher {best.teacher:.4g}, loss {best.loss:.4f}, "
        f"of {best.teachers_tried} tried"
        + ("" if best.edge is None else f"; the {best.edge} tried, so no optimum")
        for best in line.optima
    }
    if line.slope is None:
        return _aligned(lines | {"line": f"none: {line.reason}"})
    return _aligned(
        lines
        | {
            "slope": f"{line.slope:.4g} {between(line.slope_interval)}",
            "intercept": f"{line.intercept:.4g} {between(line.intercept_interval)}",
            "R²": "not defined" if line.r_squared is None else f"{line.r_squared:.4f}",
        }
    )


def _aligned(facts: dict[str, Any]) -> list[str]:
    return [_line(name, fact) for name, fact in facts.items()]


def _line(name: str, fact: Any) -> str:
    return f"{name:<{WIDTH}}{fact}"


def order_lines(check: OrderCheck) -> list[str]:
    """The loss at every measured size of a container, and where it rises."""
    stops = [
        f"{format_bytes(s.resident_bytes):>{WIDTH}}  {s.nll_per_token:.5f}" for s in check.stops
    ]
    rises = [
        f"rises by {b.nll_per_token - a.nll_per_token:.2g} nats from "
        f"{format_bytes(a.resident_bytes)} to {format_bytes(b.resident_bytes)}"
        for a, b in check.violations
    ]
    return [
        f"{'resident bytes':>{WIDTH}}  nats per token ({check.tokens} tokens of {check.text}, "
        f"window {check.window})",
        *stops,
        f"{len(check.stops)} stops, each at least {check.step:.2g} of the bytes above the last: "
        + (f"{len(rises)} where the loss rises" if rises else "the loss falls at each"),
        *rises,
    ]
