"""Our recipes as runs of `bitstack.compress`, by the clock or without one.

A container stays in the work folder with what it cost, and is loaded at every size that is asked
for. A run that was interrupted starts anew: its clock would tell the last part only.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from peers.bench import Row
from peers.containers import BITS as CONTAINER_BITS
from peers.containers import loaded
from peers.loops import Done
from peers.ours import VARIANTS, recipe_of

from bitstack import compress
from frontier.cost import Cost, Meter, MeteredBench

# Bits a weight at which every run is measured; the last stands for all of the container.
BITS = (2.0, 3.0, 4.0, CONTAINER_BITS[-1])
SETTINGS = tuple(f"{bits:g} bits" for bits in BITS)
_COST = "cost.json"


@dataclass(frozen=True)
class Run:
    """One call of `bitstack.compress`."""

    recipe: str
    time: str | None = None  # as --time takes it

    @property
    def method(self) -> str:
        """The field `method` of its rows."""
        return f"bitstack {self.recipe}" + (f" {self.time}" if self.time else "")

    def folder(self, work: Path, model: str) -> Path:
        """Returns the folder of its container."""
        return work / "containers" / f"{model}-{self.method.replace(' ', '-')}"


RUNS = (Run("fast"), Run("default", "20m"), Run("default", "60m"))


def rows(bench: MeteredBench, run: Run, done: Done) -> Iterator[Row]:
    """Measures a run at every size without a row: SETTINGS, and `bench.sizes` in bytes."""
    folder = run.folder(bench.work, bench.task.model)
    bench.known = cost = made(bench, run, folder)

    def wanted(setting: str) -> bool:
        return not done(run.method, setting)

    for setting, model in loaded(folder, wanted, bench.sizes(run.method), BITS):
        resident = model.bitstack
        yield bench.scored(
            run.method, setting, "whole", resident.bits_per_weight, resident.resident_bytes,
            model, cost.seconds,
        )  # fmt: skip


def made(bench: MeteredBench, run: Run, folder: Path) -> Cost:
    """Makes the container unless it is there; returns what it cost."""
    file = folder / _COST
    if not file.exists():
        shutil.rmtree(folder, ignore_errors=True)
        recipe, meter = recipe_of(bench, VARIANTS[run.recipe], "whole"), Meter()
        compress(bench.folder, folder, recipe=recipe, time=run.time, progress=True)
        file.write_text(json.dumps(asdict(meter.pause())))
    return Cost(**json.loads(file.read_text()))


def discard(work: Path, model: str) -> None:
    """Removes the containers of all runs, so that they are made again."""
    for run in RUNS:
        shutil.rmtree(run.folder(work, model), ignore_errors=True)
