"""Makes a container for the benchmark and loads it at many sizes.

Containers stay in the work folder, so that a second run goes on. Does not measure; see
`peers.bench`.
"""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from bitstack import compress, load
from bitstack.container.budget import Budgets, parse_budget
from bitstack.container.manifest import read_manifest
from bitstack.recipe import Recipe
from peers.bench import Bench, Clock

# Bits per weight at which a container is measured, where it has them: those of the peers, and some
# between. The last is more than any container has, so it stands for all of it.
BITS = (
    1.25, 1.5, 1.75, 2.0, 2.28, 2.6, 3.0, 3.3, 3.8, 4.31, 5.0, 6.0, 7.0, 8.0, 9.0,
)  # fmt: skip
# Setting of the row measured last: a method that has it is finished, but for sizes in bytes. Other
# rows may be missing for good, below the floor of the container or with the same levels as the
# setting before.
LAST = f"{BITS[-1]:g} bits"


def in_bytes(size: int) -> str:
    """Returns the setting of a row that is measured at a size in bytes."""
    return f"{size} bytes"


def points(
    bench: Bench, recipe: Recipe, name: str, wanted: Callable[[str], bool],
    sizes: Collection[int] = (),
) -> Iterator[tuple[str, Any, float]]:  # fmt: skip
    """Yields (setting, loaded model, seconds to compress) at each of BITS where `wanted(setting)`.

    The container is made when the first of them is needed, unless an earlier run made it.

    Args:
        bench: The opened model.
        recipe: Of the container.
        name: Of the container's folder.
        wanted: `wanted(setting)` says whether a row is to be measured.
        sizes: Bytes of the whole model that are loaded as well, even where another setting has the
            same levels; those outside of the container are left out.
    """
    settings = [*(f"{bits:g} bits" for bits in BITS), *map(in_bytes, sizes)]
    if not any(map(wanted, settings)):
        return
    folder, seconds = made(bench, recipe, name)
    for setting, model in loaded(folder, wanted, sizes):
        yield setting, model, seconds


def loaded(
    folder: Path, wanted: Callable[[str], bool], sizes: Collection[int] = (),
    bits: Collection[float] = BITS,
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Yields (setting, loaded model) of a container at `bits` and `sizes`, as `points` does."""
    budgets, seen = read_manifest(folder).budgets, set()
    for size, setting in _inside(budgets, sizes, bits):
        resident = budgets.levels(size)[1]
        if wanted(setting) and (resident not in seen or setting == in_bytes(size)):
            yield setting, load(folder, size)
        seen.add(resident)


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


def _inside(
    budgets: Budgets, sizes: Collection[int], bits: Collection[float]
) -> list[tuple[int, str]]:
    """Returns (bytes, setting), rising, of all settings from the floor on."""
    fixed, weights = budgets.fixed_bytes, sum(budgets.weights)
    known = [
        (parse_budget(f"{b}bpw").to_bytes(original_bytes=0, fixed_bytes=fixed, weights=weights),
         f"{b:g} bits")
        for b in bits
    ]  # fmt: skip
    # All of the container stands for every size above it.
    known += [(size, in_bytes(size)) for size in sizes if size < budgets.total_bytes]
    return [(size, setting) for size, setting in sorted(known) if size >= budgets.floor_bytes]
