"""Times two sides in turn, so that other work on the machine slows both.

Does not make what is timed; see `runtime.models`.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import trange
from transformers.generation.streamers import BaseStreamer

PROMPT = 64  # tokens before the timed ones


@dataclass(frozen=True)
class Line:
    """One comparison."""

    what: str
    packed: float  # seconds, the median of the rounds
    dense: float  # likewise, of the dense model or of llama.cpp
    ratio: float  # median over the rounds of dense / packed
    floor: float  # seconds that reading the packed bytes alone would take


def in_turn(rounds: int, *actions: Callable[[], Any]) -> list[list[float]]:
    """Runs the actions in turn, `rounds` times after one round that warms up.

    Returns:
        For each action and round what it returned, or its seconds where that is None.
    """
    results: list[list[float]] = [[] for _ in actions]
    for _ in trange(rounds + 1, disable=None, leave=False):
        for values, action in zip(results, actions, strict=True):
            start = time.perf_counter()
            result = action()
            values.append(time.perf_counter() - start if result is None else result)
    return [values[1:] for values in results]


def compared(what: str, packed: list[float], dense: list[float], floor: float) -> Line:
    """Returns the medians of seconds by round."""
    ratios = [theirs / ours for ours, theirs in zip(packed, dense, strict=True)]
    middle = statistics.median
    return Line(what, middle(packed), middle(dense), middle(ratios), floor)


def prompt(model: Any, tokens: int) -> Tensor:
    """Returns token ids [1, tokens] that differ from one another."""
    return torch.arange(tokens)[None] * 37 % model.config.vocab_size


class Clock(BaseStreamer):
    """Notes the time of every token of `generate`."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def seconds_per_token(model: Any, tokens: int) -> float:
    """Returns the median over the tokens of `generate` after the first."""
    clock = Clock()
    model.generate(
        prompt(model, PROMPT), do_sample=False, min_new_tokens=tokens + 1,
        max_new_tokens=tokens + 1, streamer=clock,
    )  # fmt: skip
    times = clock.times[1:]  # the first call brings the prompt
    return statistics.median(b - a for a, b in pairwise(times))
