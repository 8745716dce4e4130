"""Writes information capacity and the check of the order for a person, and what such files share.

The first line is a sentence: how much it is, which way is better, compared with what. Then one
fact a line. Computes nothing; see `bitstack.metrics`. For the others see `density_lines`,
`gap_lines` and `score_lines`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitstack.machine.sizes import format_bytes
from bitstack.metrics.statistics.bootstrap import Interval

if TYPE_CHECKING:  # they import torch
    from bitstack.metrics.capacity.measured import MeasuredCapacity
    from bitstack.metrics.capacity.series import Prediction
    from bitstack.metrics.loss.order_check import OrderCheck

WIDTH = 22  # columns of the name of a fact
UNITS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3))


def between(interval: Interval | None, form: str = ".4g") -> str:
    """Returns an interval in brackets, with its confidence level if it has one."""
    if interval is None:
        return "(no interval)"
    level = "" if interval.level is None else f"{interval.level:.0%} "
    return f"({level}{interval.low:{form}} to {interval.high:{form}})"


def counted_between(interval: Interval | None) -> str:
    """Returns an interval of a number of parameters in brackets."""
    if interval is None:
        return "(no interval)"
    level = "" if interval.level is None else f"{interval.level:.0%} "
    return f"({level}{counted(interval.low)} to {counted(interval.high)})"


def counted(number: float) -> str:
    """Returns a number of parameters as people say it: 863M, 1.5B."""
    for unit, size in UNITS:
        if size <= number < 1000 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def aligned(facts: dict[str, Any]) -> list[str]:
    """Returns one line for each fact, its name before it."""
    return [line(name, fact) for name, fact in facts.items()]


def line(name: str, fact: Any) -> str:
    """Returns a fact with its name before it."""
    return f"{name:<{WIDTH}}{fact}"


def capacities_lines(measured: "Sequence[MeasuredCapacity]") -> list[str]:
    """The information capacity of one or more models; of several, the best first in words."""
    lines = [text for one in measured for text in capacity_lines(one)]
    if len(measured) < 2:
        return lines
    low, *_, high = sorted(measured, key=lambda one: one.capacity.information_capacity)
    ends = [one.capacity.interval for one in (low, high)]
    apart = None not in ends and ends[0].high < ends[1].low
    sure = "" if apart else "; their intervals overlap, so this text may not tell them apart"
    return [f"Highest of {len(measured)}: {_named(high)}; lowest: {_named(low)}{sure}.", *lines]


def _named(one: "MeasuredCapacity") -> str:
    size = format_bytes(one.resident_bytes)
    return f"{one.model} at {size} with {one.capacity.information_capacity:.5f}"


def capacity_lines(measured: "MeasuredCapacity") -> list[str]:
    """The information capacity of one model."""
    one = measured.capacity
    unit = "token" if one.variant == "faithful" else "byte"
    lost = f", {one.unknown_tokens} of them unknown" if one.unknown_tokens else ""
    bias = f", bias {one.bias:g}" if one.variant == "faithful" else ""
    flops = "" if unit == "token" else f" ({one.flops_per_token:.4g} FLOPs per token)"
    same = "text, bias and length" if one.variant == "faithful" else "text and kind of cost"
    return [
        f"{measured.model} saves {one.text_size - one.nll:.2f} of the {one.text_size:.2f} bits "
        f"that a {unit} of this text takes; for its cost that is an information capacity of "
        f"{one.information_capacity:.5f}. Higher is better; compare with other models on the same "
        f"{same} only.",
        *aligned(
            {
                "model": f"{measured.model}, {format_bytes(measured.resident_bytes)} resident",
                "information capacity": f"{one.information_capacity:.5f} "
                f"{between(one.interval, '.5f')}",
                f"bits per {unit}": f"{one.nll:.4f} with the model, {one.text_size:.4f} without",
                "cost": f"{one.cost:.4g} {one.denominator} per {unit}" + flops,
                "measured on": f"{one.scored_tokens} tokens{lost} in {one.documents} documents of "
                f"{measured.text}, variant {one.variant}{bias}, length {one.max_length}"
                + (f", {one.skipped_documents} too short" if one.skipped_documents else ""),
            }
        ),
    ]


def prediction_line(model: str, prediction: "Prediction") -> str:
    """The loss predicted for another model of a series."""
    return line(
        "predicted NLL",
        f"{prediction.nll:.4f} bits per token {between(prediction.interval, '.4f')} for {model}, "
        f"if it has the capacity of the {prediction.sources} measured; lower is better",
    )


def order_lines(check: "OrderCheck") -> list[str]:
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
        _order_sentence(check),
        f"{'resident bytes':>{WIDTH}}  nats per token ({check.tokens} tokens of {check.text}, "
        f"window {check.window})",
        *stops,
        f"{len(check.stops)} stops, each at least {check.step:.2g} of the bytes above the last",
        *rises,
    ]


def _order_sentence(check: "OrderCheck") -> str:
    steps, losses = len(check.stops) - 1, [stop.nll_per_token for stop in check.stops]
    if not check.violations:
        return (
            f"The loss falls at each of {steps} steps: every larger model is better, as it should."
        )
    most = max(b.nll_per_token - a.nll_per_token for a, b in check.violations)
    fall = losses[0] - losses[-1]
    share = f", {100 * most / fall:.2g}% of the {fall:.3g} nats that it falls in all"
    beside = share if fall > 0 else ""
    return (
        f"The loss rises at {len(check.violations)} of {steps} steps, by {most:.2g} nats at most"
        f"{beside}: a larger model is a little worse there; a small share is harmless."
    )
