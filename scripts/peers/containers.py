"""Makes a container for the benchmark and loads it at many sizes.

Containers stay in the work folder, so that a second run goes on. Does not measure; see
`peers.bench`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bitstack import compress, load
from bitstack.container.budget import parse_budget
from bitstack.container.manifest import read_manifest
from bitstack.recipe import Recipe
from peers.bench import Bench, Clock

# Bits per weight at which a container is measured, where it has them: those of the peers, and some
# between. The last is more than any container has, so it stands for all of it.
BITS = (
    1.25, 1.5, 1.75, 2.0, 2.28, 2.6, 3.0, 3.3, 3.8, 4.31, 5.0, 6.0, 7.0, 8.0, 9.0,
)  # fmt: skip
# Setting of the row measured last: a method that has it is finished. Other rows may be missing for
# good, below the floor of the container or with the same levels as the setting before.
LAST = f"{BITS[-1]:g} bits"


def made(bench: Bench, recipe: Recipe, name: str) -> tuple[Path, float]:
    """Returns the folder of the container of this name, and the seconds that it took to make.

    It is made unless an earlier run made it.
    """
    folder = bench.work / "containers" / f"{bench.task.model}-{name}"
    if not (folder / "seconds.json").exists():
        clock = Clock()
        compress(bench.folder, folder, recipe=recipe, progress=True)
        (folder / "seconds.json").write_text(json.dumps(clock.seconds))
    return folder, json.loads((folder / "seconds.json").read_text())


def points(
    bench: Bench, recipe: Recipe, name: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Any, float]]:
    """Yields (setting, loaded model, seconds to compress) at each of BITS where `wanted(setting)`.

    The container is made when the first of them is needed, unless an earlier run made it.
    """
    settings = {bits: f"{bits:g} bits" for bits in BITS}
    if not any(map(wanted, settings.values())):
        return
    folder, seconds = made(bench, recipe, name)
    budgets, seen = read_manifest(folder).budgets, set()
    for bits, setting in settings.items():
        budget = parse_budget(f"{bits}bpw")
        size = budget.to_bytes(
            original_bytes=0, fixed_bytes=budgets.fixed_bytes, weights=sum(budgets.weights)
        )
        if size < budgets.floor_bytes:
            continue
        resident = budgets.levels(size)[1]
        if resident not in seen and wanted(setting):
            yield setting, load(folder, size), seconds
        seen.add(resident)
