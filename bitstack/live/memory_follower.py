"""Follows the free memory of the machine: a model that shrinks before it is in the way, and grows
again when there is room for long enough.

Decides the budget only. How free memory is told is left to `free_memory`, how a model changes to
`resize`.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch

from bitstack.container.budget import Budget, parse_budget
from bitstack.container.levels import choose_levels
from bitstack.errors import UserError
from bitstack.live.resident import resident_of
from bitstack.machine.free_memory import free_memory

_log = logging.getLogger(__name__)

PATIENCE = 3  # readings in a row with room to grow, before it grows
SLACK = 16  # what is left free when growing: this part of all that can be freed
_followers: weakref.WeakKeyDictionary[Any, "Follower"] = weakref.WeakKeyDictionary()


class Follower:
    """A daemon thread that resizes one model; made by `follow_memory`, usable in a `with`."""

    def __init__(
        self, model: Any, keep_free: int, most: int, interval: float, free: Callable[[], int]
    ) -> None:
        self.keep_free, self.most, self.interval, self.free = keep_free, most, interval, free
        self.error: str | None = None  # why the last change could not be made
        self._model = weakref.ref(model)
        self._roomy = 0  # readings in a row
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bitstack-memory", daemon=True)

    def step(self) -> None:
        """Take one reading, and resize if it says so. Called by the thread."""
        model = self._model()
        if model is None:
            self._stop.set()
            return
        target = self._target(resident_of(model))
        if target is None:
            return
        try:
            resident_of(model).resize(target)
            self.error = None
        except UserError as error:
            if str(error) != self.error:
                _log.warning("%s", error)
            self.error = str(error)

    def _target(self, resident: Any) -> int | None:
        """The budget to move to, in bytes; None to stay."""
        budgets = resident.manifest.budgets
        held = budgets.resident_bytes(resident.levels)
        room = self.free() - self.keep_free
        if room < 0 or held > self.most:
            self._roomy = 0
            target = max(budgets.floor_bytes, min(held + room, self.most))
            return target if target < held else None
        slack = (budgets.total_bytes - budgets.floor_bytes) // SLACK
        missing = self.most - held
        gain = min(room - slack, missing)
        self._roomy = self._roomy + 1 if gain >= min(slack, missing) and gain > 0 else 0
        return held + gain if self._roomy >= PATIENCE else None

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """End it, and wait for a resize that has begun. The model keeps its size."""
        self._stop.set()
        model = self._model()
        waits_for_us = model is not None and resident_of(model).guard.within_forward
        if not waits_for_us and self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stop.wait(self.interval):
            try:
                self.step()
            except Exception:  # the model must not stay large because one reading failed
                _log.exception("following the memory goes on after an error")


def follow_memory(
    model: Any,
    keep_free: str | int = "2GiB",
    *,
    at_most: str | int | Budget | None = None,
    interval: float = 1.0,
    free: Callable[[], int] | None = None,
) -> Follower:
    """Keep `keep_free` bytes of memory free by resizing `model`, until `stop()` or the `with` ends.

    Every `interval` seconds it takes a reading. With less free than `keep_free` the model shrinks
    at once, never below its floor. It grows, up to `at_most` (None: everything), when there has
    been room for some time, and then leaves a slack, so that small changes do nothing. `free`
    tells the free bytes; without it: on the CPU the least of MemAvailable and the limits of the
    cgroups, on CUDA the device's free memory. A model is followed once: a new call ends the one
    before. A resize that fails (the container is gone) is logged, and tried again.

    UserError for a budget or an interval that cannot be, a model that `load` did not make, and a
    system that does not tell its free memory.
    """
    resident = resident_of(model)
    kept = parse_budget(keep_free)
    if kept.kind != "bytes":
        raise UserError(f"keep_free {keep_free}: must be bytes, for example 2GiB")
    if not interval > 0:
        raise UserError(f"interval is {interval} s; it must be above 0")
    free = free or _reading(resident)
    free()  # what cannot be read is told here and not in the thread
    follower = Follower(model, int(kept.amount), _most(resident, at_most), interval, free)
    if (before := _followers.get(model)) is not None:
        before.stop()
    _followers[model] = follower
    return follower.start()


def _most(resident: Any, at_most: str | int | Budget | None) -> int:
    return resident.manifest.budgets.resident_bytes(choose_levels(resident.manifest, at_most))


def _reading(resident: Any) -> Callable[[], int]:
    device = resident.stacks[0].device
    if device.type == "cuda":
        return lambda: torch.cuda.mem_get_info(device)[0]
    return free_memory
