"""Writes densities and their laws for a person: a sentence in words, then one fact a line.

Computes nothing; see `metrics.density`.
"""

from typing import TYPE_CHECKING

from bitstack.commands.metric_lines import aligned, between, counted, counted_between
from bitstack.machine.sizes import format_bytes
from bitstack.metrics.density.capacity_density import Density
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.density.trend import Forecast

if TYPE_CHECKING:  # they import torch
    from bitstack.metrics.density.scoring import AnswerLoss, Scored


def law_lines(law: DensityLaw) -> list[str]:
    """The constants of the laws of loss and score, with their intervals."""
    constants = {"reference models": f"{len(law.references)}, D₀ {law.reference_tokens:.4g} tokens"}
    for part in (law.loss, law.score):
        intervals = part.intervals
        constants |= {
            name: f"{value:.5g} {between(intervals[name])}"
            for name, value in part.parameters.items()
        }
    return [_law_sentence(law), *aligned(constants)]


def _law_sentence(law: DensityLaw) -> str:
    values, intervals = law.loss.parameters, law.loss.intervals
    alpha, beta = intervals["alpha"], intervals["beta"]
    unsure = [
        what
        for what, interval in (("parameters", alpha), ("training tokens", beta))
        if interval is None or interval.low <= 0
    ]
    doubt = f" The series does not show that more {' or '.join(unsure)} help." if unsure else ""
    return (
        f"In this law twice the parameters take {1 - 2 ** -values['alpha']:.0%} off the part of "
        "the loss that comes from size, and twice the training tokens "
        f"{1 - 2 ** -values['beta']:.0%} off the other part.{doubt}"
    )


def density_lines(scored: "Scored", law: DensityLaw) -> list[str]:
    """The densities of one model, or why it has none."""
    one = scored.density
    head = {"model": f"{scored.model}, {counted(one.parameters)} parameters"}
    if one.stored_bytes is not None:
        head["model"] += f", {format_bytes(one.stored_bytes)} resident"
    if one.reason is not None:
        facts = head | {"why": one.reason.removeprefix("not defined: ")}
    else:
        facts = head | _figures(one)
    return [_density_sentence(scored.model, one, law), *aligned(facts | {"law": _series(law)})]


def _figures(one: Density) -> dict[str, str]:
    outside = ", outside the sizes of the series" if one.extrapolated else ""
    return {
        "loss": f"{one.loss:.4f} nats",
        "effective parameters": f"{counted(one.effective_parameters or 0)} "
        f"{counted_between(one.interval)}{outside}",
        "density": f"{one.density:.4g} {between(one.density_interval)}",
        "density by bytes": "not defined: no bytes"
        if one.byte_density is None
        else f"{one.byte_density:.4g} {between(one.byte_interval)}",
    }


def _density_sentence(model: str, one: Density, law: DensityLaw) -> str:
    if one.beyond == "better":
        return (
            f"{model} is better than a reference model of any size could be by this law, so it has "
            "no effective size: take a law of larger models, or measure what the law was fitted on."
        )
    if one.effective_parameters is None or one.density is None:
        return (
            f"{model} is no better than a model that guesses: worse than the reference models of "
            "every size, so it has no effective size."
        )
    size, largest = one.effective_parameters, max(r.parameters for r in law.references)
    beyond = (
        f" That is beyond the largest reference model ({counted(largest)}): better than any of the "
        "series, and a guess how much."
        if size > largest
        else ""
    )
    return (
        f"{model} is as good as a reference model of {counted(size)} parameters, {one.density:.3g} "
        f"times its own {counted(one.parameters)}. Higher is better; 1 is as good as the series."
        f"{beyond}"
    )


def _series(law: DensityLaw) -> str:
    sizes = [reference.parameters for reference in law.references]
    on = (
        ""
        if law.protocol is None
        else f"; loss on {law.protocol.text}; score: {law.protocol.score}"
    )
    return (
        f"{len(sizes)} reference models, {counted(min(sizes))} to {counted(max(sizes))} "
        f"parameters{on}"
    )


def loss_lines(measured: "AnswerLoss") -> list[str]:
    """The loss of one model on answers, given their instructions."""
    one = measured.loss
    return [
        f"{measured.model} is surprised by the right answers by {one.nats_per_token:.2f} nats per "
        "token. Lower is better; 0 is certain of every answer. Compare with other models on the "
        "same answers.",
        *aligned(
            {
                "model": f"{measured.model}, {counted(measured.parameters)} parameters, "
                f"{format_bytes(measured.resident_bytes)} resident",
                "nats per answer": f"{one.nats_per_answer:.4f} {between(one.interval)}",
                "nats per token": f"{one.nats_per_token:.4f} {between(one.token_interval)}",
                "bits per byte": f"{one.bits_per_byte:.4f}",
                "measured on": f"{one.pairs} pairs, {one.tokens} tokens of answers",
            }
        ),
    ]


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
    return [_trend_sentence(forecast), *aligned(lines)]


def _trend_sentence(forecast: Forecast) -> str:
    days = forecast.trend.doubling_days
    if days is None:
        return "The best density does not grow in this list: newer models are not denser."
    return (
        f"The best density doubles every {days:.0f} days: after that time a model of half the size "
        "is as good. Fewer days are faster progress."
    )
