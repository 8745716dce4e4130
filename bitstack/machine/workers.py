"""Several processes that share one compression, as `torchrun` starts them; one without it.

Results pass through files in the output folder, which all workers see, so nothing here carries
tensors: torch's rendezvous store, the one gloo and nccl meet over, is enough, and no worker waits
for another but at a stage's end. Every worker shows the store that it lives; those that wait for
one that died stop, and say its name.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from typing import Any

from bitstack.errors import UserError

SILENT = 60.0  # seconds without a sign of life after which a worker counts as dead
_BEAT = 1.0
_POLL = 0.05


@dataclass
class Workers:
    """Worker `rank` of `count`; `store` is a torch.distributed Store, None for a single one."""

    rank: int = 0
    count: int = 1
    store: Any = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def wait(self, stage: str) -> None:
        """Until all workers have come to `stage`. UserError naming one that failed or died."""
        if self.store is None:
            return
        self.store.set(f"{stage}/{self.rank}", b"1")
        self._await([f"{stage}/{rank}" for rank in range(self.count)])

    def leave(self) -> None:
        """The last stage: the first worker, who may hold the store, stays until all have gone."""
        if self.store is None:
            return
        self.store.set(f"left/{self.rank}", b"1")
        if self.rank == 0:
            self._await([f"left/{rank}" for rank in range(self.count)])

    def say(self, name: str, value: str) -> None:
        """Tell the others something; `hear` gives it to them."""
        if self.store is not None:
            self.store.set(name, value.encode())

    def hear(self, name: str) -> str:
        """What a worker said under `name`, as soon as it has. UserError as for `wait`."""
        self._await([name])
        return str(self.store.get(name).decode())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Within it this worker shows that it lives; if it fails, the others are told why."""
        if self.store is None:
            yield
            return
        self.store.set(f"name/{self.rank}", _own_name(self.rank).encode())
        threading.Thread(target=self._beat, args=(self.store.clone(),), daemon=True).start()
        try:
            yield
        except BaseException as error:
            noticed = isinstance(error, WorkerFailed)
            self._tell(" ".join(str(error).split()) or type(error).__name__, 5 if noticed else 20)
            raise
        finally:
            self._stop.set()

    def _tell(self, reason: str, patience: float) -> None:
        """Why this worker stops. The first, who may hold the store, stays until all have heard."""
        with suppress(RuntimeError):  # the store has gone
            self.store.set(f"failed/{self.rank}", reason.encode())
            others = [f"failed/{rank}" for rank in range(1, self.count)]
            end = time.monotonic() + patience
            while not self.rank and not self.store.check(others) and time.monotonic() < end:
                time.sleep(_POLL)

    def _beat(self, store: Any) -> None:
        beats = 0
        with suppress(RuntimeError):  # the store has gone, and the run with it
            while not self._stop.wait(_BEAT):
                beats += 1
                store.set(f"beat/{self.rank}", str(beats).encode())

    def _await(self, keys: list[str]) -> None:
        last: dict[int, tuple[bytes, float]] = {}
        try:
            while not self.store.check(keys):
                for rank in range(self.count):
                    if rank != self.rank:
                        self._look_at(rank, last)
                time.sleep(_POLL)
        except RuntimeError as error:
            raise WorkerFailed(
                f"worker 0 or the launcher has died: their store is gone ({str(error)[:100]}); run "
                "the same command again, and it goes on where it stopped"
            ) from None

    def _look_at(self, rank: int, last: dict[int, tuple[bytes, float]]) -> None:
        """UserError if the worker has failed, or shown no life for long."""
        if self.store.check([f"failed/{rank}"]):
            reason = self.store.get(f"failed/{rank}").decode()
            raise WorkerFailed(f"{self._name(rank)} failed: {reason}")
        beat = self.store.get(f"beat/{rank}") if self.store.check([f"beat/{rank}"]) else b""
        known, since = last.get(rank, (None, 0.0))
        if beat != known:
            last[rank] = (beat, time.monotonic())
        elif time.monotonic() - since > SILENT:
            raise WorkerFailed(
                f"{self._name(rank)} has died: no sign of life for {SILENT:.0f} s; run the same "
                "command again, and it goes on where it stopped"
            )

    def _name(self, rank: int) -> str:
        known = self.store.check([f"name/{rank}"])
        return self.store.get(f"name/{rank}").decode() if known else f"worker {rank}"


class WorkerFailed(UserError):
    """Another worker has failed or died."""


def open_workers() -> Workers:
    """The workers that `torchrun` (or its environment variables) started, or this process alone."""
    if processes()[1] == 1:
        return Workers()
    from torch.distributed import PrefixStore, rendezvous

    try:
        store, rank, count = next(rendezvous("env://", timeout=timedelta(seconds=300)))
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"workers: they cannot meet ({' '.join(str(error).split())[:200]}); start them with "
            "torchrun --nproc-per-node N"
        ) from None
    # A restarted group must not find what the one before it said.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Workers(rank, count, PrefixStore(f"bitstack/{attempt}", store))


def processes() -> tuple[int, int]:
    """Number of this process, and of how many, as a launcher's environment says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Is this process the one that prints?"""
    return processes()[0] == 0


def shares(costs: Sequence[float], count: int) -> list[int]:
    """The worker of every item: runs of neighbours of about equal cost.

    An item belongs where the middle of its cost falls, so that no share is further from the mean
    than the costs of the two items at its ends.
    """
    ends = list(accumulate(costs))
    total = ends[-1] if ends and ends[-1] > 0 else 1.0
    middles = (end - cost / 2 for end, cost in zip(ends, costs, strict=True))
    return [min(count - 1, int(middle / total * count)) for middle in middles]


def _own_name(rank: int) -> str:
    return f"worker {rank} (host {socket.gethostname()}, process {os.getpid()})"
