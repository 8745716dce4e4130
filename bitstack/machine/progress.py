"""Shows how far long work has come: a bar in a terminal, a line now and then in a log file.

Where stderr is no terminal, one line every 30 s tells of all bars that are open, the outer first:
"measure: 2 of 6, scoring: 10 of 40, 4 min 10 s". A thread prints it, so that a step that takes
minutes does not look like a hang.
"""

import math
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from bitstack.machine.durations import format_duration
from bitstack.machine.sizes import format_bytes

EVERY = 30.0  # seconds between two lines
SHARE = "share"  # the unit of a bar whose numbers say nothing by themselves


class _Log:
    """Prints a line for all open bars, every so often, as long as there are some.

    A bar that nobody closed is closed by the garbage collector, at any moment and in any thread, in
    the midst of the code below too. So nothing here waits for a lock: dictionaries change in one
    step, and the thread looks at the clock instead of being woken.
    """

    def __init__(self) -> None:
        # By id, in the order of opening; weak, or a bar that nobody closes would never leave.
        self._open: dict[int, weakref.ref[Any]] = {}
        self._begun = self._printed = 0.0
        self._prints = threading.Lock()  # held by the thread that prints

    def add(self, bar: Any) -> None:
        if not self._open:
            self._begun = self._printed = time.monotonic()
        self._open[id(bar)] = weakref.ref(bar)
        if self._prints.acquire(blocking=False):
            threading.Thread(target=self._run, daemon=True).start()

    def remove(self, bar: Any) -> None:
        self._open.pop(id(bar), None)

    def _run(self) -> None:
        while True:
            while self._open:
                time.sleep(EVERY / 30)
                self._print_if_due()
            self._prints.release()
            # A bar opened before that release has found the lock taken.
            if not self._open or not self._prints.acquire(blocking=False):
                return

    def _print_if_due(self) -> None:
        now, found = time.monotonic(), [ref() for ref in [*self._open.values()]]
        bars = [bar for bar in found if bar is not None]
        if not bars or now - self._printed < EVERY:
            return
        self._printed = now
        parts = [*map(_state, bars), format_duration(now - self._begun)]
        print(", ".join(parts), file=sys.stderr, flush=True)


_log = _Log()


def _state(bar: Any) -> str:
    """How far a bar is: `tune: 12 of 50 steps`, or a share of the whole."""
    if bar.unit == SHARE:
        return f"{bar.desc}: {bar.n / bar.total:.0%}"
    shown = format_bytes if bar.unit == "B" else str
    unit = "" if bar.unit in ("B", "it") else f" {bar.unit}s"
    of = "" if bar.total is None else f" of {shown(bar.total)}"
    return f"{bar.desc}: {shown(bar.n)}{of}{unit}"


class LoggedBar:
    """Makes a class of tqdm print lines where stderr is no terminal. For a base class before it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        logs = self._logs = not sys.stderr.isatty()
        # With a delay without end tqdm itself prints nothing.
        super().__init__(*args, **options | ({"delay": math.inf} if logs else {}))
        if logs and not self.disable:  # type: ignore[attr-defined]
            _log.add(self)

    def refresh(self, *args: Any, **options: Any) -> Any:
        """Draws the bar anew, in a terminal."""
        return None if self._logs else super().refresh(*args, **options)  # type: ignore[misc]

    def close(self) -> None:
        """Ends the bar and its lines."""
        _log.remove(self)
        super().close()  # type: ignore[misc]


class Bar(LoggedBar, tqdm):
    """A bar of tqdm, with its arguments; `disable=True` shows nothing anywhere."""


def bar(steps: Iterable[Any] | None = None, *, desc: str, show: bool, **options: Any) -> Bar:
    """Returns a bar over `steps`, or one that its user moves on.

    Args:
        desc: The name of the work, such as `tune`.
        show: Whether anything is shown.
        options: As tqdm takes them: `total`, and `unit` in the singular, such as "layer".
    """
    return Bar(steps, desc=desc, disable=not show, **options)
