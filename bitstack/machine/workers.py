"""Lets several processes, as `torchrun` starts them, share one compression.

Results pass through files in the output folder, which all workers see. Only short texts are sent,
so torch's rendezvous store (over which gloo and nccl meet) is enough, and workers wait for one
another only at the end of a stage. Every worker writes a heartbeat to the store: when one dies,
those that wait for it stop with an error that names it. Does not join results; see
`machine.gathering`.
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
_BEAT = 1.0  # seconds between two heartbeats
_POLL = 0.05  # seconds between two looks at the store


@dataclass
class Workers:
    """Worker `rank` of `count`; `store` is a torch.distributed Store, None for a single one."""

    rank: int = 0
    count: int = 1
    store: Any = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def wait(self, stage: str) -> None:
        """Waits until all workers have come to `stage`.

        Raises:
            UserError: Another worker has failed or died; the message names it.
        """
        if self.store is None:
            return
        self.store.set(f"{stage}/{self.rank}", b"1")
        self._wait_for([f"{stage}/{rank}" for rank in range(self.count)])

    def leave(self) -> None:
        """Ends the run: the first worker, which may hold the store, waits until all have left."""
        if self.store is None:
            return
        self.store.set(f"left/{self.rank}", b"1")
        if self.rank == 0:
            self._wait_for([f"left/{rank}" for rank in range(self.count)])

    def publish(self, name: str, value: str) -> None:
        """Gives the other workers a value; they get it by `receive`."""
        if self.store is not None:
            self.store.set(name, value.encode())

    def receive(self, name: str) -> str:
        """Waits until a worker has published `name`, and returns its value.

        Raises:
            UserError: Another worker has failed or died; the message names it.
        """
        self._wait_for([name])
        return str(self.store.get(name).decode())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Within it this worker sends heartbeats; if it fails, the others get the reason."""
        if self.store is None:
            yield
            return
        self.store.set(f"name/{self.rank}", _own_name(self.rank).encode())
        heart = (self.store.clone(),)
        threading.Thread(target=self._send_heartbeats, args=heart, daemon=True).start()
        try:
            yield
        except BaseException as error:
            noticed = isinstance(error, WorkerFailed)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._announce_failure(reason, 5 if noticed else 20)
            raise
        finally:
            self._stop.set()

    def _announce_failure(self, reason: str, patience: float) -> None:
        """Publishes why this worker stops; the first waits until all know."""
        with suppress(RuntimeError):  # the store has gone
            self.store.set(f"failed/{self.rank}", reason.encode())
            others = [f"failed/{rank}" for rank in range(1, self.count)]
            end = time.monotonic() + patience
            while not self.rank and not self.store.check(others) and time.monotonic() < end:
                time.sleep(_POLL)

    def _send_heartbeats(self, store: Any) -> None:
        beats = 0
        with suppress(RuntimeError):  # the store has gone, and the run with it
            while not self._stop.wait(_BEAT):
                beats += 1
                store.set(f"beat/{self.rank}", str(beats).encode())

    def _wait_for(self, keys: list[str]) -> None:
        last: dict[int, tuple[bytes, float]] = {}
        try:
            while not self.store.check(keys):
                for rank in range(self.count):
                    if rank != self.rank:
                        self._check_alive(rank, last)
                time.sleep(_POLL)
        except RuntimeError as error:
            raise WorkerFailed(
                f"worker 0 or the launcher has died: their store is gone ({str(error)[:100]}); run "
                "the same command again, and it goes on where it stopped"
            ) from None

    def _check_alive(self, rank: int, last: dict[int, tuple[bytes, float]]) -> None:
        """Raises UserError when the worker has failed or has sent no heartbeat for long."""
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
    """Returns the workers that `torchrun` (or its environment variables) started.

    Without it this process is the only worker.

    Raises:
        UserError: The workers cannot connect to one another.
    """
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
    # A restarted group must not read what the group before it published.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Workers(rank, count, PrefixStore(f"bitstack/{attempt}", store))


def processes() -> tuple[int, int]:
    """Returns the rank of this process and the number of processes, as the launcher says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tells whether this process is the one that prints."""
    return processes()[0] == 0


def shares(costs: Sequence[float], count: int) -> list[int]:
    """Returns the worker of every item: runs of neighbours of about equal cost.

    Args:
        costs: Cost of every item, in any unit.
        count: Number of workers.
    """
    # An item belongs to the worker in whose share the middle of its cost falls: no share is then
    # further from the mean than the costs of the two items at its ends.
    ends = list(accumulate(costs))
    total = ends[-1] if ends and ends[-1] > 0 else 1.0
    middles = (end - cost / 2 for end, cost in zip(ends, costs, strict=True))
    return [min(count - 1, int(middle / total * count)) for middle in middles]


def _own_name(rank: int) -> str:
    return f"worker {rank} (host {socket.gethostname()}, process {os.getpid()})"
