"""Forwards and resizes of one model kept apart: many forwards at once, or one change of its blocks.

A forward of the whole model holds the guard while it runs; a resize waits for the forwards that
have begun, lets no new one begin, and swaps. What is swapped is the business of `resize`.
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
    """A readers-writer lock that prefers the writer. A copy of a guarded model gets its own."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._forwards: dict[int, int] = {}  # thread -> forwards it is within
        self._changing = False
        self._turn = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    @property
    def within_forward(self) -> bool:
        """Whether this thread is within a forward, and so must not wait for a resize."""
        return threading.get_ident() in self._forwards

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Held by a running forward; waits for a change that has begun, unless nested in one."""
        thread = threading.get_ident()
        with self._state:
            while self._changing and thread not in self._forwards:
                self._state.wait()
            self._forwards[thread] = self._forwards.get(thread, 0) + 1
        try:
            yield
        finally:
            self._leave(thread)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Held by one resize from start to end; others wait. Forwards go on meanwhile.

        Raises UserError in a thread that is within a forward: it would wait for itself.
        """
        if self.within_forward:
            raise UserError(
                "resize: called from within a forward of the same model (a hook of one of its "
                "modules?), which cannot end before the resize does; call it between two forwards "
                "or from another thread"
            )
        with self._turn:
            yield

    @contextmanager
    def change(self) -> Iterator[None]:
        """No forward runs within; to be entered within `turn`."""
        try:
            with self._state:
                self._changing = True
                while self._forwards:
                    self._state.wait()
            yield
        finally:
            with self._state:
                self._changing = False
                self._state.notify_all()

    def _leave(self, thread: int) -> None:
        with self._state:
            self._forwards[thread] -= 1
            if not self._forwards[thread]:
                del self._forwards[thread]
                self._state.notify_all()


def guard_forward(model: nn.Module, guard: Guard) -> None:
    """Let every call of `model` hold `guard`.

    Around `forward` rather than through torch's forward hooks: those are not called when Ctrl-C
    ends a forward, and the model could never be resized again. A forward that another library
    put in place (accelerate, for several devices) is the one that is called.
    """
    inner = model.__dict__.get("forward")
    model.forward = update_wrapper(partial(_forward, model, guard, inner), model.forward)


def _forward(model: nn.Module, guard: Guard, inner: Any, *args: Any, **kwargs: Any) -> Any:
    call = inner or partial(type(model).forward, model)
    if torch.compiler.is_compiling():  # a lock would break the graph
        return call(*args, **kwargs)
    with guard.forward(), resources_of_forward(model, args, kwargs):
        return call(*args, **kwargs)
