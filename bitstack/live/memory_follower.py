"""Resizes a model by the free memory of the machine: it shrinks at once and grows after a while.

Decides the budget only. Does not measure free memory, see `machine.free_memory`, and does not
exchange blocks, see `live.resident`.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch
from torch import nn

from bitstack.container.budget import Budget, parse_budget
from bitstack.container.levels import choose_levels
from bitstack.errors import UserError
from bitstack.live.resident import Resident, resident_of
from bitstack.machine.free_memory import free_memory

_log = logging.getLogger(__name__)

PATIENCE = 3  # readings in a row with room to grow, before the model grows
# Growing leaves a slack free besides: 1/16 of the bytes between the smallest and the whole model.
SLACK = 16
_followers: weakref.WeakKeyDictionary[nn.Module, "Follower"] = weakref.WeakKeyDictionary()


class Follower:
    """A daemon thread that resizes one model; made by `follow_memory`, usable in a `with`.

    Attributes:
        keep_free: Bytes of memory to keep free.
        max_bytes: Most resident bytes of the model.
        interval: Seconds between two readings.
        free: Returns the bytes of free memory.
        error: Why the last resize failed; None if it did not.
    """

    def __init__(
        self,
        model: nn.Module,
        keep_free: int,
        max_bytes: int,
        interval: float,
        free: Callable[[], int],
    ) -> None:
        self.keep_free, self.max_bytes, self.interval = keep_free, max_bytes, interval
        self.free = free
        self.error: str | None = None
        self._model = weakref.ref(model)
        self._readings_with_room = 0  # in a row
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bitstack-memory", daemon=True)

    def step(self) -> None:
        """Takes one reading of the free memory and resizes the model if needed."""
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

    def _target(self, resident: Resident) -> int | None:
        """Returns the budget to resize to, in bytes; None to stay."""
        budgets = resident.manifest.budgets
        now = budgets.resident_bytes(resident.levels)
        room = self.free() - self.keep_free
        if room < 0 or now > self.max_bytes:
            self._readings_with_room = 0
            target = max(budgets.floor_bytes, min(now + room, self.max_bytes))
            return target if target < now else None
        slack = (budgets.total_bytes - budgets.floor_bytes) // SLACK
        missing = self.max_bytes - now
        gain = min(room - slack, missing)
        # Steps below a slack are not worth a resize, unless they reach the most.
        worth_it = gain >= min(slack, missing) and gain > 0
        self._readings_with_room = self._readings_with_room + 1 if worth_it else 0
        return now + gain if self._readings_with_room >= PATIENCE else None

    def start(self) -> Self:
        """Starts the thread; returns the follower."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the thread, and waits for a resize that has begun. The model keeps its size."""
        self._stop.set()
        model = self._model()
        # Within a forward the thread may be waiting for that very forward to end.
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
            except Exception:  # one reading that fails must not leave the model large for good
                _log.exception("following the memory goes on after an error")


def follow_memory(
    model: nn.Module,
    keep_free: str | int = "2GiB",
    *,
    at_most: str | int | Budget | None = None,
    interval: float = 1.0,
    free: Callable[[], int] | None = None,
) -> Follower:
    """Keeps memory free by resizing a loaded model from a thread of its own.

    With less free memory than `keep_free` the model shrinks at once, never below its smallest
    size. It grows after three readings in a row with room, and then leaves a slack, so that small
    changes do nothing. A resize that fails, as when the container is gone, is logged and tried
    again. A second call for the same model ends the first follower.

    Args:
        model: A model of `bitstack.load` or of transformers' `from_pretrained`.
        keep_free: Bytes to keep free, a number or for example "2GiB".
        at_most: Largest budget of the model, as in `bitstack.load`; None for all blocks.
        interval: Seconds between two readings of the free memory.
        free: Returns the bytes of free memory. None for the device's free memory on CUDA, and on
            the CPU for the least of MemAvailable and what the limits of the cgroups leave.

    Returns:
        The running follower; `stop()`, or the end of a `with` over it, ends it.

    Raises:
        UserError: A budget is not understood or below the smallest model, `interval` is not above
            0, the model was not loaded by bitstack, or free memory cannot be read here.

    Example:
        >>> import bitstack
        >>> model = bitstack.load("my-container")
        >>> with bitstack.follow_memory(model, keep_free="100MB", at_most="50%"):
        ...     output = model.generate(max_new_tokens=5)
    """
    resident = resident_of(model)
    kept = parse_budget(keep_free)
    if kept.kind != "bytes":
        raise UserError(f"keep_free {keep_free}: must be bytes, for example 2GiB")
    if not interval > 0:
        raise UserError(f"interval is {interval} s; it must be above 0")
    free = free or _default_reading(resident)
    free()  # raises here what would otherwise be raised in the thread
    max_bytes = resident.manifest.budgets.resident_bytes(choose_levels(resident.manifest, at_most))
    follower = Follower(model, int(kept.amount), max_bytes, interval, free)
    if (before := _followers.get(model)) is not None:
        before.stop()
    _followers[model] = follower
    return follower.start()


def _default_reading(resident: Resident) -> Callable[[], int]:
    device = resident.stacks[0].device
    if device.type == "cuda":
        return lambda: torch.cuda.mem_get_info(device)[0]
    return free_memory
