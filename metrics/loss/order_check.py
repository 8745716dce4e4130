"""Does every block of the order buy quality? The loss along a container's order, step by step.

Walks a loaded model up its order by live resizing and measures perplexity at each stop. The order
itself is made elsewhere; here it is only held to what it promises.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bitstack.errors import UserError
from bitstack.live.loading import load
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.source import load_tokenizer
from bitstack.original.text import token_ids


@dataclass(frozen=True)
class Stop:
    """One place along the order: whole resident bytes, nats per token."""

    resident_bytes: int
    nll_per_token: float


@dataclass(frozen=True)
class OrderCheck:
    """All stops from the floor to the top, and how they were measured."""

    stops: list[Stop]
    step: float  # least growth between two stops, as a share of the larger one's bytes
    tokens: int
    window: int
    text: str

    @property
    def violations(self) -> list[tuple[Stop, Stop]]:
        """Neighbouring stops of which the larger model has the higher loss."""
        return [(a, b) for a, b in pairwise(self.stops) if b.nll_per_token > a.nll_per_token]

    def to_json(self) -> dict[str, Any]:
        """All fields, and the violations as pairs of resident bytes."""
        pairs = [[a.resident_bytes, b.resident_bytes] for a, b in self.violations]
        return asdict(self) | {"violations": pairs}


def check_order(
    folder: str | Path,
    text: str,
    *,
    step: float = 0.01,
    window: int | None = None,
    max_tokens: int | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> OrderCheck:
    """Perplexity of the container `folder` on `text` wherever its order has grown by `step`.

    UserError for a step outside 0 to 1, and for what `load` and the text refuse.
    """
    if not 0 < step < 1:
        raise UserError(f"--step {step}: a share of the bytes between 0 and 1 is needed, as 0.01")
    model = load(folder, device=device)
    tokens = token_ids(text, load_tokenizer(model.bitstack.folder), max_tokens=max_tokens)
    stops = []
    found = None
    for size in tqdm(_sizes(model, step), desc="order", disable=None if progress else True):
        model.bitstack.resize(size)
        found = perplexity(model, tokens, window=window)
        stops.append(Stop(model.bitstack.resident_bytes, found.nll_per_token))
    assert found is not None, "an order has a floor"
    return OrderCheck(stops, step, found.tokens, found.window, text)


def _sizes(model: Any, step: float) -> list[int]:
    """Bytes of the floor, of every stop `step` above the one before, and of the top."""
    budgets = model.bitstack.manifest.budgets
    sizes = [budgets.floor_bytes]
    for size in budgets.prefix_bytes:
        if size >= sizes[-1] / (1 - step):
            sizes.append(size)
    return sizes if sizes[-1] == budgets.total_bytes else [*sizes, budgets.total_bytes]
