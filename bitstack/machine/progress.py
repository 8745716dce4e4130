"""Shows how far long work has come: a bar in a terminal, a line now and then in a log file.

Where stderr is no terminal, one line every 30 s tells of all bars that are open, the outer first:
"measure: 2 of 6, scoring: 10 of 40, 4 min 10 s". A thread prints it, so that a step that takes
minutes does not look like a hang.
"""

import math
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from bitstack.machine.durations import format_duration
from bitstack.machine.sizes import format_bytes

EVERY = 30.0  # seconds between two lines
SHARE = "share"  # the unit of a bar whose numbers say nothing by themselves


class _Log:
    """Prints a line for all open bars, every so often, as long as there are some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Any] = []
        self._begun = 0.0
        self._ended = threading.Event()

    def add(self, bar: Any) -> None:
        with self._lock:
            self._open.append(bar)
            if len(self._open) == 1:
                self._begun, self._ended = time.monotonic(), threading.Event()
                args = (self._ended,)
                threading.Thread(target=self._print, args=args, daemon=True).start()

    def remove(self, bar: Any) -> None:
        with self._lock:
            self._open = [other for other in self._open if other is not bar]
            if not self._open:
                self._ended.set()

    def _print(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY):
            with self._lock:
                parts = [_state(bar) for bar in self._open]
            parts.append(format_duration(time.monotonic() - self._begun))
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
        logs = not sys.stderr.isatty()
        # With a delay without end tqdm itself prints nothing.
        super().__init__(*args, **options | ({"delay": math.inf} if logs else {}))
        if logs and not self.disable:  # type: ignore[attr-defined]
            _log.add(self)

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
