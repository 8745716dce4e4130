"""What it takes to make a model: time, processor time and peak memory, without its evaluation.

Does not measure quality; see `peers.bench`.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.bench import Arrays, Bench, Clock, Row

# Vector instructions, best first: what decides the speed of a machine besides its threads.
_VECTORS = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512_f", "avx_vnni", "avx2", "sve", "neon")


@dataclass(frozen=True)
class Cost:
    """What making one model took."""

    seconds: float
    cpu_seconds: float  # user and system, of the process and its children
    peak_bytes: int  # largest resident set of the process, with Python and its libraries
    threads: int
    vectors: str  # the best vector instructions of the processor


@dataclass(frozen=True)
class PricedRow(Row):
    """A row with what it took to make its model."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    threads: int = 0
    vectors: str = ""


class Meter:
    """Adds up the cost of a process since it was made, but for the time it is paused."""

    def __init__(self) -> None:
        self._clock, self._cpu, self._paused = Clock(), cpu_seconds(), 0.0
        self._stop, self._peak, self._before = 0.0, 0, 0

    def add(self, cost: Cost) -> None:
        """Counts what was made earlier, by another process."""
        self._cpu -= cost.cpu_seconds
        self._before = max(self._before, cost.peak_bytes)

    def pause(self) -> Cost:
        """Stops the processor time; returns the cost so far."""
        self._stop = cpu_seconds()
        used = self._stop - self._cpu - self._paused
        # Later peaks are those of an evaluation; what is done after it takes less than before.
        self._peak = self._peak or max(peak_bytes(), self._before)
        return Cost(self._clock.seconds, used, self._peak, torch.get_num_threads(), vectors())

    def resume(self) -> None:
        """Goes on after `pause`."""
        self._paused += cpu_seconds() - self._stop


class MeteredBench(Bench):
    """A bench whose rows tell what they cost. One setting is measured in a process."""

    meter: Meter | None = None
    known: Cost | None = None  # of a model that was made earlier

    def start(self) -> None:
        """Starts to meter; whatever the setting shares with its evaluation is there already."""
        for shared in ("windows", "linear_weights", "half"):
            getattr(self, shared)
        self.meter = Meter()

    def shared(self, name: str, make: Callable[[], Arrays]) -> tuple[Arrays, float]:
        """Returns what another process has made, or makes and keeps it; rows count its cost."""
        task = hashlib.sha256(json.dumps(asdict(self.task)).encode()).hexdigest()[:16]
        values = self.work / f"{name}-{task}.npz"
        note = values.with_suffix(".json")
        if note.exists():
            cost = Cost(**json.loads(note.read_text()))
            assert self.meter, "not started"
            self.meter.add(cost)
            return dict(np.load(values)), cost.seconds
        meter, made = Meter(), make()
        cost = meter.pause()
        self.work.mkdir(parents=True, exist_ok=True)
        np.savez(values, **made)
        note.write_text(json.dumps(asdict(cost)))
        return made, 0.0

    def scored(
        self, method: str, setting: str, view: str, bits: float, size: int, model: Any,
        seconds: float,
    ) -> PricedRow:  # fmt: skip
        """Evaluates `model`; returns its row, with the cost of what came before the evaluation."""
        assert self.known or self.meter, "not started"
        cost = self.known or self.meter.pause()  # type: ignore[union-attr]
        row = super().scored(method, setting, view, bits, size, model, seconds)
        if self.meter:
            self.meter.resume()
        return PricedRow(**{**asdict(cost), **asdict(row)})


def cpu_seconds() -> float:
    """Returns the user and system seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_bytes() -> int:
    """Returns the largest resident set that this process has had.

    From /proc where it is: a new process otherwise inherits the peak of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def vectors() -> str:
    """Returns the best vector instructions of this processor."""
    has = torch.cpu.get_capabilities()
    return next((name for name in _VECTORS if has.get(name)), "none")
