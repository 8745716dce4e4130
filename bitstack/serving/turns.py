"""Lets requests compute in turn, a token at a time: one computes, the others wait.

One model on one device gains nothing from forwards side by side: they share its cores, and each
takes so much longer. In turn, every client gets its tokens at the same pace, and a new one its
first token soon. Does not know what is computed; see `serving.running`.
"""

import threading
from collections import deque


class Turns:
    """A lock that is handed on in order; who waits for a first token goes before the others.

    Of two such in a row the second lets one of the others go first, so nobody waits for ever.
    """

    def __init__(self) -> None:
        self._state = threading.Lock()
        self._first: deque[threading.Event] = deque()  # waiting for a first token
        self._next: deque[threading.Event] = deque()  # waiting for another token
        self._taken = False
        self._first_was_last = False  # the turn that was handed on last

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for a turn."""
        return bool(self._first or self._next)

    def take(self, *, first: bool) -> None:
        """Waits for a turn. `first`: for the first token of a request."""
        with self._state:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Event()
            (self._first if first else self._next).append(turn)
        turn.wait()

    def give(self) -> None:
        """Hands the turn on, to be called by who has it."""
        with self._state:
            assert self._taken, "given without being taken"
            self._hand_on()

    def pass_on(self) -> None:
        """Lets everybody who waits for one compute a token, if there is anybody."""
        with self._state:
            if not self._first and not self._next:
                return
            self._hand_on()
            turn = threading.Event()
            self._next.append(turn)
        turn.wait()

    def _hand_on(self) -> None:
        first = bool(self._first) and not (self._first_was_last and self._next)
        waiting = self._first if first else self._next
        self._first_was_last = first
        if waiting:
            waiting.popleft().set()
        else:
            self._taken = False
