"""Tells and changes the size of the model that is served, also by the free memory.

Does not exchange blocks, see `live.resident`, or speak HTTP, see `serving.app`.
"""

import threading
from collections import Counter
from typing import Any

from bitstack.live.memory_follower import Follower, follow_memory
from bitstack.live.opening import Opened
from bitstack.live.resident import Resident, resident_of


class Size:
    """The size of one model. Its methods may be called from any thread."""

    def __init__(self, opened: Opened, budget: str | None, keep_free: str | int | None) -> None:
        """Begins to follow the free memory, if `keep_free` is given.

        Args:
            opened: The model.
            budget: What it was opened with; None: everything. A model that follows the memory
                does not grow above it.
            keep_free: Bytes of memory to keep free, such as "2GiB".

        Raises:
            UserError: Free memory is to be followed with an original model, or not as
                `live.memory_follower` can.
        """
        self._opened, self._keep_free = opened, keep_free
        self.budget = budget or "everything"
        self._changing = threading.Lock()
        self._follower: Follower | None = None
        if keep_free is not None:
            self._follower = follow_memory(opened.model, keep_free, at_most=budget)

    @property
    def _resident(self) -> Resident | None:
        return getattr(self._opened.model, "bitstack", None)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the model in memory now."""
        resident = self._resident
        if resident is None:
            return self._opened.resident_bytes
        return resident.manifest.budgets.resident_bytes(resident.levels)

    def change(self, budget: str | int) -> None:
        """Brings the model to a budget, while requests run.

        Where the free memory is followed, it is a new upper bound: the model shrinks to it at
        once, and grows to it as memory is free.

        Raises:
            UserError: The budget is not understood or below the smallest model, blocks cannot be
                read, or the model is an original one.
        """
        with self._changing:
            resident = resident_of(self._opened.model)
            before = resident.manifest.budgets.resident_bytes(resident.levels)
            if self._follower is None:
                resident.resize(budget)
            else:
                self._follower = follow_memory(
                    self._opened.model, self._keep_free or 0, at_most=budget
                )
                if self._follower.max_bytes < before:
                    resident.resize(budget)
            self.budget = str(budget)

    def close(self) -> None:
        """Ends following."""
        if self._follower is not None:
            self._follower.stop()

    def summary(self) -> dict[str, Any]:
        """Returns what of the model is in memory, in a few numbers."""
        resident = self._resident
        told: dict[str, Any] = {"resident_bytes": self.resident_bytes}
        if resident is None:
            return told | {"bits_per_weight": self._opened.bits_per_weight}
        levels = resident.levels
        budgets = resident.manifest.budgets
        told |= {
            "budget": self.budget,
            "bits_per_weight": budgets.bits_per_weight(levels),
            "matrices_at_level": {str(k): n for k, n in sorted(Counter(levels).items())},
            "floor_bytes": budgets.floor_bytes,
            "total_bytes": budgets.total_bytes,
        }
        if self._follower is not None:
            told["follow_memory"] = {
                "keep_free": self._follower.keep_free, "error": self._follower.error
            }  # fmt: skip
        return told

    def levels(self) -> dict[str, int]:
        """Returns the level of every matrix.

        Raises:
            UserError: The model is an original one.
        """
        resident = resident_of(self._opened.model)
        names = [entry.name for entry in resident.manifest.stacks]
        return dict(zip(names, resident.levels, strict=True))
