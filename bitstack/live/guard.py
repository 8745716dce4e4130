"""Keeps forwards and resizes of one model apart: many forwards at once, or one swap of blocks.

A forward holds the guard while it runs. A swap waits for the forwards that have begun and lets no
new one begin. Does not swap anything; see `live.swap`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import nn

from bitstack.errors import UserError
from bitstack.nn.steps import resources_of_forward


class Guard:
    """A readers-writer lock that prefers the writer: forwards read, swaps write.

    A copy of a guarded model gets a guard of its own.
    """

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._forwards: dict[int, int] = {}  # thread -> forwards it is within
        self._swapping = False
        self._levels_lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    @property
    def within_forward(self) -> bool:
        """Whether this thread runs a forward, and so must not wait for a resize."""
        return threading.get_ident() in self._forwards

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Held by a running forward. Waits while blocks are swapped.

        A forward within another one of the same thread does not wait, as the swap waits for that.
        """
        thread = threading.get_ident()
        with self._state:
            while self._swapping and thread not in self._forwards:
                self._state.wait()
            self._forwards[thread] = self._forwards.get(thread, 0) + 1
        try:
            yield
        finally:
            self._leave(thread)

    @contextmanager
    def levels_lock(self) -> Iterator[None]:
        """Held by who changes the levels or needs them to stay: one at a time, beside forwards.

        Raises:
            UserError: The thread is within a forward, so a swap would wait for itself.
        """
        if self.within_forward:
            raise UserError(
                "resize: called from within a forward of the same model (a hook of one of its "
                "modules?), which cannot end before the resize does; call it between two forwards "
                "or from another thread"
            )
        with self._levels_lock:
            yield

    @contextmanager
    def no_forwards(self) -> Iterator[None]:
        """No forward runs within. The caller holds `levels_lock`."""
        try:
            with self._state:
                self._swapping = True
                while self._forwards:
                    self._state.wait()
            yield
        finally:
            with self._state:
                self._swapping = False
                self._state.notify_all()

    def _leave(self, thread: int) -> None:
        with self._state:
            self._forwards[thread] -= 1
            if not self._forwards[thread]:
                del self._forwards[thread]
                self._state.notify_all()


def guard_forward(model: nn.Module, guard: Guard) -> None:
    """Lets every forward of `model` hold `guard`.

    Wraps `forward` instead of using torch's hooks: these are not called when Ctrl-C ends a
    forward, and the model could never be resized again. A forward that another library has put in
    place (accelerate, for several devices) is the one that is called.
    """
    replaced = model.__dict__.get("forward")
    model.forward = update_wrapper(partial(_forward, model, guard, replaced), model.forward)


def _forward(model: nn.Module, guard: Guard, replaced: Any, *args: Any, **kwargs: Any) -> Any:
    call = replaced or partial(type(model).forward, model)
    if torch.compiler.is_compiling():  # a lock would break the graph
        return call(*args, **kwargs)
    with guard.forward(), resources_of_forward(model, args, kwargs):
        return call(*args, **kwargs)
