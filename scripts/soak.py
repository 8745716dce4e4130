"""Runs a model under load for minutes, and looks for leaks, deadlocks and wrong errors.

    python scripts/soak.py [--minutes 2] [--container DIR] [--json [FILE]]

Four threads generate while one resizes the model at random, `follow_memory` resizes it by a random
reading of free memory, and the container's files are deleted, cut short, replaced, and put back.
Resizes have to fail with one line while a file is broken, and work again afterwards; nothing else
may fail. The resident set is read at the smallest size, and must stay within 2% of what it was
after the warm-up. Without --container a container of random blocks is made. Linux only.
"""

import argparse
import faulthandler
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from bench_resize import ids, logits, shape
from random_container import random_container

from bitstack import UserError, follow_memory, load, resize
from bitstack.commands.shared import write_result
from bitstack.machine.allocator import give_back
from bitstack.machine.pages import process_bytes

THREADS = 4  # that generate
WARM_UP = 0.25  # share of the time
FLAT = 0.02  # most growth of the resident set
SILENT = 120.0  # seconds without progress of a thread that count as a deadlock
MIB = 1 << 20


@dataclass
class Result:
    """What `--json` holds."""

    seconds: float = 0.0
    generations: int = 0
    resizes: int = 0
    follower_resizes: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # resizes, by what broke the container
    rss_bytes: list[int] = field(default_factory=list)  # at the smallest size, after the warm-up
    equal_logits: bool = False  # bit for bit, before and after, at one budget
    failures: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Largest resident set over the first one, less 1."""
        return max(self.rss_bytes) / self.rss_bytes[0] - 1 if self.rss_bytes else 0.0

    @property
    def passed(self) -> bool:
        return not self.failures and self.equal_logits and self.growth <= FLAT


def delete_shard(folder: Path) -> None:
    """Deletes the last shard."""
    sorted(folder.glob("*.safetensors"))[-1].unlink()


def truncate_shard(folder: Path) -> None:
    """Cuts the last shard to half of its bytes, in place."""
    shard = sorted(folder.glob("*.safetensors"))[-1]
    os.truncate(shard, shard.stat().st_size // 2)


def replace_container(folder: Path) -> None:
    """Puts a manifest of another model in the place of the container's."""
    manifest = folder / "bitstack.json"
    text = manifest.read_text().replace('"base_model": "', '"base_model": "another-', 1)
    new = folder / "new.json"
    new.write_text(text)
    new.replace(manifest)


def delete_container(folder: Path) -> None:
    """Deletes the whole folder."""
    shutil.rmtree(folder)


FAULTS: dict[str, Callable[[Path], None]] = {
    "shard deleted": delete_shard,
    "shard cut short": truncate_shard,
    "container replaced": replace_container,
    "container deleted": delete_container,
}


class Soak:
    """One model, the threads that use it, and what they came to."""

    def __init__(self, container: Path, folder: Path) -> None:
        self.kept, self.folder = container, folder / "soaked"
        shutil.copytree(container, self.folder)
        self.model = load(self.folder)
        budgets = self.model.bitstack.manifest.budgets
        self.low, self.high = budgets.floor_bytes, budgets.total_bytes
        self.result = Result()
        self._over = threading.Event()
        self._broken = threading.Event()  # the container is, or was when a resize began
        self._may_resize = threading.Lock()
        self._progress: dict[str, float] = {}

    def run(self, seconds: float, rounds: int) -> Result:
        """Soaks for `seconds`, in `rounds` of faults, each ended by a reading of the memory."""
        before = self._logits()
        start = time.monotonic()
        actions = [self._generate] * THREADS + [self._resize_at_random]
        threads = [
            threading.Thread(target=self._repeat, args=(f"thread {i}", action), daemon=True)
            for i, action in enumerate(actions)
        ]
        threads.append(threading.Thread(target=self._watch, daemon=True))
        with follow_memory(self.model, "1MB", interval=0.05, free=self._random_reading):
            for thread in threads:
                thread.start()
            self._rounds(seconds, rounds)
            self._over.set()
            for thread in threads:
                thread.join()
        self.result.seconds = time.monotonic() - start
        self.result.equal_logits = torch.equal(before, self._logits())
        return self.result

    def _rounds(self, seconds: float, rounds: int) -> None:
        faults = list(FAULTS.items())
        for index in range(rounds):
            time.sleep(seconds / rounds)
            name, fault = faults[index % len(faults)]
            with self._container_broken(fault):
                self._expect_refusals(name)
            resize(self.model, self.high)
            if index >= WARM_UP * rounds:
                self.result.rss_bytes.append(self._settled())
            self._progress["faults"] = time.monotonic()

    @contextmanager
    def _container_broken(self, fault: Callable[[Path], None]) -> Iterator[None]:
        with self._may_resize:
            self._broken.set()
            fault(self.folder)
        try:
            yield
        finally:
            with self._may_resize:  # no resize has begun before and ends behind it
                shutil.rmtree(self.folder, ignore_errors=True)
                shutil.copytree(self.kept, self.folder)
                self._broken.clear()

    def _expect_refusals(self, name: str) -> None:
        """Resizes until one needs what is broken; the others may have read it before."""
        for _ in range(50):
            for budget in (self.low, self.high):
                try:
                    resize(self.model, budget)
                except UserError as error:
                    self.result.refused[name] = self.result.refused.get(name, 0) + 1
                    if "\n" in str(error):
                        self._fail(f"{name}: more than one line: {error}")
                    return
        self._fail(f"{name}: no resize was refused")

    def _resize_at_random(self, rng: random.Random) -> None:
        with self._may_resize:
            try:
                resize(self.model, rng.randint(self.low, self.high))
                self.result.resizes += 1
            except UserError as error:
                if not self._broken.is_set():
                    self._fail(f"a resize: {error}")
        time.sleep(0.01)

    def _generate(self, rng: random.Random) -> None:
        prompt = ids(self.model, rng.randint(1, 32))
        tokens = self.model.generate(
            prompt, max_new_tokens=rng.randint(1, 24), do_sample=False, pad_token_id=0
        )
        assert tokens.shape[1] > prompt.shape[1]
        self.result.generations += 1

    def _random_reading(self) -> int:
        """Bytes of free memory as the follower reads them: little, or room to grow."""
        self.result.follower_resizes += 1
        return random.choice((0, self.high))

    def _repeat(self, name: str, action: Callable[[random.Random], None]) -> None:
        rng = random.Random(name)
        while not self._over.is_set():
            try:
                action(rng)
            except Exception as error:
                self._fail(f"{name}: {type(error).__name__}: {error}")
            self._progress[name] = time.monotonic()

    def _watch(self) -> None:
        """Ends the process with the stacks of all threads when one makes no progress."""
        while not self._over.wait(1):
            silent = [n for n, at in self._progress.items() if time.monotonic() - at > SILENT]
            if silent:
                faulthandler.dump_traceback()
                print(f"deadlock: {', '.join(silent)}: no progress for {SILENT:.0f} s")
                os._exit(3)

    def _settled(self) -> int:
        """Resident bytes at the smallest size: the least of some readings under load."""
        readings = []
        with self._may_resize:
            for _ in range(10):
                resize(self.model, self.low)  # the follower may have grown it
                give_back()
                readings.append(process_bytes())
                time.sleep(0.02)
        return min(readings)

    def _logits(self) -> torch.Tensor:
        resize(self.model, self.high)
        return logits(self.model)

    def _fail(self, text: str) -> None:
        if text not in self.result.failures:
            self.result.failures.append(text)


def print_table(result: Result) -> None:
    rss = result.rss_bytes
    lines = [
        ("seconds", f"{result.seconds:.0f}"),
        ("generations in 4 threads", str(result.generations)),
        ("resizes at random", str(result.resizes)),
        ("readings of the memory follower", str(result.follower_resizes)),
        *((f"refused: {name}", str(count)) for name, count in result.refused.items()),
        ("resident set, first and largest", f"{rss[0] / MIB:.1f} {max(rss) / MIB:.1f} MiB"),
        ("growth after the warm-up", f"{result.growth:.2%}"),
        ("equal logits before and after", "yes" if result.equal_logits else "NO"),
        ("failures", str(len(result.failures))),
    ]
    for name, value in lines:
        print(f"{name:<34} {value:>16}")
    for text in result.failures[:10]:
        print(f"  {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long")
    parser.add_argument("--container", type=Path, metavar="DIR", help="container to run")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the result to FILE; - is stdout"
    )
    options = parser.parse_args()
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="bitstack-soak-") as name:
        folder = Path(name)
        container = options.container or random_container(folder / "made", shape(False), planes=8)
        result = Soak(container, folder).run(seconds, max(8, round(seconds / 5)))
    if options.json != "-":
        print_table(result)
    if options.json:
        record: dict[str, Any] = {"growth": result.growth, "passed": result.passed}
        write_result(options.json, asdict(result) | record)
    sys.exit(not result.passed)


if __name__ == "__main__":
    main()
