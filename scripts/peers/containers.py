"""Containers made for the benchmark, kept beside the work file so that a second run goes on."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from bitstack import compress, load
from bitstack.container.budget import parse_budget
from bitstack.container.manifest import read_manifest
from bitstack.recipe import Recipe
from peers.bench import Bench, Clock

# Bits a weight at which a container is measured, as far as it has them: where peers stand, and
# between. The last is more than any has: all of it.
BITS = (
    1.25, 1.5, 1.75, 2.0, 2.28, 2.6, 3.0, 3.3, 3.8, 4.31, 5.0, 6.0, 7.0, 8.0, 9.0,
)  # fmt: skip
# All of a container, measured last: a method that has it is finished. It may lack others, which lie
# below its floor or take the same levels as those before them.
LAST = f"{BITS[-1]:g} bits"


def points(
    bench: Bench, recipe: Recipe, name: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Any, float]]:
    """(setting, loaded model, seconds to compress) at each of BITS where `wanted(setting)`.

    The container is made when the first of them is asked for, or taken if it was made before.
    """
    settings = {bits: f"{bits:g} bits" for bits in BITS}
    if not any(map(wanted, settings.values())):
        return
    folder = bench.work / "containers" / f"{bench.task.model}-{name}"
    if not (folder / "seconds.json").exists():
        clock = Clock()
        compress(bench.folder, folder, recipe=recipe, progress=True)
        (folder / "seconds.json").write_text(json.dumps(clock.seconds))
    seconds = json.loads((folder / "seconds.json").read_text())
    budgets, seen = read_manifest(folder).budgets, set()
    for bits, setting in settings.items():
        budget = parse_budget(f"{bits}bpw")
        size = budget.to_bytes(
            original_bytes=0, fixed_bytes=budgets.fixed_bytes, weights=sum(budgets.weights)
        )
        if size < budgets.floor_bytes:
            continue
        found = budgets.levels(size)[1]
        if found not in seen and wanted(setting):
            yield setting, load(folder, size), seconds
        seen.add(found)
