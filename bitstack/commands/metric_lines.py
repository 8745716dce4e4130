"""Results of the metrics as a person reads them, one fact a line. Nothing is computed here."""

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

WIDTH = 22


def between(interval: Interval | None, form: str = ".4g") -> str:
    """An interval in brackets, or that there is none."""
    if interval is None:
        return "(no interval)"
    level = "" if interval.level is None else f"{interval.level:.0%} "
    return f"({level}{interval.low:{form}} to {interval.high:{form}})"


def capacity_lines(found: MeasuredCapacity) -> list[str]:
    """One measurement of information capacity."""
    one = found.capacity
    unit = "token" if one.variant == "faithful" else "byte"
    lost = f", {one.unknown_tokens} of them unknown" if one.unknown_tokens else ""
    bias = f", bias {one.bias:g}" if one.variant == "faithful" else ""
    return _aligned(
        {
            "model": f"{found.model}, {format_bytes(found.resident_bytes)} resident",
            "information capacity": f"{one.information_capacity:.5f} "
            f"{between(one.interval, '.5f')}",
            "text size, NLL": f"{one.text_size:.4f}, {one.nll:.4f} bits per {unit}",
            "cost": f"{one.cost:.4g} {one.denominator} per {unit} "
            f"({one.flops_per_token:.4g} FLOPs per token)",
            "measured on": f"{one.scored_tokens} tokens{lost} in {one.documents} documents of "
            f"{found.text}, variant {one.variant}{bias}, length {one.max_length}"
            + (f", {one.skipped_documents} too short" if one.skipped_documents else ""),
        }
    )


def prediction_line(model: str, found: Prediction) -> str:
    """What a series foretells of another size."""
    return _line(
        "predicted NLL",
        f"{found.nll:.4f} bits {between(found.interval, '.4f')} for {model}, from {found.sources} "
        f"model{'s' * (found.sources > 1)}",
    )


def law_lines(law: DensityLaw) -> list[str]:
    """The constants of both laws."""
    found = {"reference models": f"{len(law.references)}, D₀ {law.reference_tokens:.4g} tokens"}
    for part in (law.loss, law.score):
        intervals = part.intervals
        found |= {
            name: f"{value:.5g} {between(intervals[name])}"
            for name, value in part.parameters.items()
        }
    return _aligned(found)


def density_lines(found: Scored) -> list[str]:
    """The densities of one model, or why there are none."""
    one = found.density
    head = {"model": f"{found.model}, {one.parameters:.4g} parameters"}
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


def loss_lines(found: AnswerLoss) -> list[str]:
    """The conditional loss of one model."""
    one = found.loss
    return _aligned(
        {
            "model": f"{found.model}, {found.parameters} parameters",
            "nats per answer": f"{one.nats_per_answer:.4f} {between(one.interval)}",
            "nats per token": f"{one.nats_per_token:.4f} {between(one.token_interval)}",
            "bits per byte": f"{one.bits_per_byte:.4f}",
            "measured on": f"{one.pairs} pairs, {one.tokens} tokens of answers",
        }
    )


def trend_lines(found: Forecast) -> list[str]:
    """The growth of density, and what it foretells."""
    trend = found.trend
    lines = {
        "growth per day": f"{trend.growth:.5g} {between(trend.growth_interval)}",
        "doubling": "none: density does not grow"
        if trend.doubling_days is None
        else f"{trend.doubling_days:.1f} days {between(trend.doubling_interval, '.1f')}",
    }
    if found.fixed_price_doubling_days is not None:
        lines["at a fixed price"] = f"{found.fixed_price_doubling_days:.1f} days"
    if trend.r_squared is not None:
        lines["R²"] = f"{trend.r_squared:.4f}"
    lines["envelope"] = ", ".join(trend.envelope)
    if found.day is not None:
        range_ = "no interval" if found.day_interval is None else " to ".join(found.day_interval)
        lines["as good as of"] = f"{found.since}, with {found.share:g} of the size: {found.day} "
        lines["as good as of"] += f"({range_})"
    return _aligned(lines)


def gap_lines(found: MeasuredGap) -> list[str]:
    """The gap, whole and in parts."""
    gap = found.gap
    lines = _aligned(
        {
            "teacher": f"{found.teacher}, {format_bytes(found.teacher_bytes)} resident",
            "student": f"{found.student}, {format_bytes(found.student_bytes)} resident",
            **_gap(gap.whole),
            "measured on": f"{gap.whole.tokens} tokens in {gap.documents} documents of "
            f"{found.text}, window {gap.window}, intervals over {gap.unit}s",
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


def teacher_lines(found: BestTeacher) -> list[str]:
    """What a law says of the best teacher."""
    lines = {
        "best teacher": f"{found.teacher:.4g} parameters {between(found.interval)}, "
        f"{found.ratio:.2f} times the student",
        "interval": found.interval_means,
        "law": f"{found.law}: {found.scope}",
    }
    if found.student_loss is not None:
        lines["student's loss"] = f"{found.student_loss:.4f} nats per token"
    if found.extrapolated:
        lines["note"] = "the student lies outside the law's sizes: extrapolated"
    return _aligned(lines)


def gap_fit_lines(found: GapLine) -> list[str]:
    """A fitted line, and the optima it goes through."""
    lines = {
        f"student {best.student:.4g}": f"best teacher {best.teacher:.4g}, loss {best.loss:.4f}, "
        f"of {best.teachers_tried} tried"
        + ("" if best.edge is None else f"; the {best.edge} tried, so no optimum")
        for best in found.optima
    }
    if found.slope is None:
        return _aligned(lines | {"line": f"none: {found.reason}"})
    return _aligned(
        lines
        | {
            "slope": f"{found.slope:.4g} {between(found.slope_interval)}",
            "intercept": f"{found.intercept:.4g} {between(found.intercept_interval)}",
            "R²": "not defined" if found.r_squared is None else f"{found.r_squared:.4f}",
        }
    )


def _aligned(facts: dict[str, Any]) -> list[str]:
    return [_line(name, fact) for name, fact in facts.items()]


def _line(name: str, fact: Any) -> str:
    return f"{name:<{WIDTH}}{fact}"


def order_lines(found: OrderCheck) -> list[str]:
    """Every stop along an order, and where the loss rises."""
    stops = [
        f"{format_bytes(s.resident_bytes):>{WIDTH}}  {s.nll_per_token:.5f}" for s in found.stops
    ]
    rises = [
        f"rises by {b.nll_per_token - a.nll_per_token:.2g} nats from "
        f"{format_bytes(a.resident_bytes)} to {format_bytes(b.resident_bytes)}"
        for a, b in found.violations
    ]
    return [
        f"{'resident bytes':>{WIDTH}}  nats per token ({found.tokens} tokens of {found.text}, "
        f"window {found.window})",
        *stops,
        f"{len(found.stops)} stops, each at least {found.step:.2g} of the bytes above the last: "
        + (f"{len(rises)} where the loss rises" if rises else "the loss falls at each"),
        *rises,
    ]
