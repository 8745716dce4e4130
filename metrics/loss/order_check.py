"""Checks that the loss of a container falls along its order, step by step.

Loads the model once, grows it along the order by live resizing and measures the loss at each stop.
Does not sort the blocks; see `ordering.greedy`.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bitstack.errors import UserError
from bitstack.live.loading import load
from bitstack.machine.device import pick_device
from bitstack.machine.progress import bar
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.source import load_tokenizer
from bitstack.original.text import token_ids


@dataclass(frozen=True)
class Stop:
    """One place along the order."""

    resident_bytes: int  # of the whole model
    nll_per_token: float  # nats


@dataclass(frozen=True)
class OrderCheck:
    """The loss at every stop, from the smallest model to the largest."""

    stops: list[Stop]
    step: float  # least growth between two stops, as a share of the larger one's bytes
    tokens: int  # scored at each stop
    window: int  # tokens
    text: str  # the source, as given

    @property
    def violations(self) -> list[tuple[Stop, Stop]]:
        """Neighbouring stops where the larger model has the higher loss."""
        return [(a, b) for a, b in pairwise(self.stops) if b.nll_per_token > a.nll_per_token]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields, and the violations as pairs of resident bytes."""
        pairs = [[a.resident_bytes, b.resident_bytes] for a, b in self.violations]
        return asdict(self) | {"violations": pairs}


def check_order(
    folder: str | Path,
    text: str,
    *,
    step: float = 0.01,
    window: int | None = None,
    max_tokens: int | None = None,
    device: str = "auto",
    progress: bool = False,
) -> OrderCheck:
    """Measures the loss of a container on `text` at stops along its order.

    Args:
        folder: The container.
        text: Source of the text, as in `original.text`.
        step: Least growth between two stops, as a share of the larger model's bytes: 0.01 gives
            about 110 stops while a model grows to three times its size.
        window: Tokens of a forward pass; None for the model's positions, at most 2048.
        max_tokens: Use only the first tokens of the text; None uses all.
        device: "auto", "cpu" or "cuda".
        progress: Show a progress bar.

    Raises:
        UserError: `step` is not between 0 and 1, the container cannot be loaded, or the text
            cannot be read.
    """
    if not 0 < step < 1:
        raise UserError(f"--step {step}: a share of the bytes between 0 and 1 is needed, as 0.01")
    model: Any = load(folder, device=pick_device(device))
    tokens = token_ids(text, load_tokenizer(model.bitstack.folder), max_tokens=max_tokens)
    stops = []
    measured = None
    for size in bar(_sizes(model, step), desc="order", show=progress):
        model.bitstack.resize(size)
        measured = perplexity(model, tokens, window=window)
        stops.append(Stop(model.bitstack.resident_bytes, measured.nll_per_token))
    assert measured is not None, "an order has a floor"
    return OrderCheck(stops, step, measured.tokens, measured.window, text)


def _sizes(model: Any, step: float) -> list[int]:
    """Returns the bytes of the floor, of every stop `step` above the last, and of everything."""
    budgets = model.bitstack.manifest.budgets
    sizes = [budgets.floor_bytes]
    for size in budgets.prefix_bytes:
        if size >= sizes[-1] / (1 - step):
            sizes.append(size)
    return sizes if sizes[-1] == budgets.total_bytes else [*sizes, budgets.total_bytes]
