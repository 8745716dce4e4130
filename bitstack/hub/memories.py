"""Chooses the budget of a container for memories as people have them, with room for a text.

Does not lay out the card; see `hub.card`.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from bitstack.container.budget import EVERYTHING, FLOOR
from bitstack.container.manifest import Manifest
from bitstack.container.planning import PlanRow, plan

MEMORIES = (4, 6, 8, 12, 16, 24)  # GB, of graphics cards and small computers
GB = 10**9
FILLED = 0.8  # of a memory, by model and KV cache; the program and its activations take the rest


@dataclass(frozen=True)
class Choice:
    """What to load into one memory."""

    memory: str  # "8 GB", or "8 GB and more" where everything fits
    planned: PlanRow | None  # None: not even the smallest model fits


def choices(folder: Path, manifest: Manifest) -> list[Choice]:
    """Returns a budget for every memory, up to the first that holds everything."""
    budgets = manifest.budgets
    cache = plan(folder, FLOOR)[0].kv_cache_bytes or 0
    made: list[Choice] = []
    for memory in MEMORIES:
        room = room_in(memory, cache)
        if room >= budgets.total_bytes:
            return [*made, Choice(f"{memory} GB and more", plan(folder, EVERYTHING)[0])]
        budget = budget_of(room)
        fits = budget is not None and budget[1] >= budgets.floor_bytes
        made.append(Choice(f"{memory} GB", plan(folder, budget[0])[0] if budget and fits else None))
    return made


def room_in(memory: int, cache: int) -> int:
    """Returns the bytes that a memory of so many GB has for the model, beside its cache."""
    return int(FILLED * memory * GB) - cache


def budget_of(room: int) -> tuple[str, int] | None:
    """Returns whole tenths of a GB, as a budget and in bytes; None below the first."""
    tenths = math.floor(10 * room / GB)
    return (f"{tenths / 10:g}GB", tenths * GB // 10) if tenths > 0 else None
