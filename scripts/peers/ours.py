"""Our recipes from one container each: whole models, and with embeddings and head left dense.

As many tokens as a recipe says, in windows as long as the peers' are. `best`, which takes longest,
only whole: the targets for linear weights alone are those of the default.
"""

from collections.abc import Callable, Iterator

from bitstack.recipe import load_recipe
from peers.bench import Bench, Row
from peers.containers import LAST, points

VIEWS = {"whole": "decompose", "linear": "dense"}
RECIPES = {"default": tuple(VIEWS), "fast": tuple(VIEWS), "best": ("whole",)}


def rows(bench: Bench, done: Callable[[str, str], bool]) -> Iterator[Row]:
    for name, views in RECIPES.items():
        for view in views:
            method = f"bitstack {name}" if view == "whole" else f"bitstack {name}, linear only"
            if done(method, LAST):
                continue
            own, length = load_recipe(name), bench.task.length
            recipe = load_recipe(
                name, calibration=str(bench.calibration), embeddings=VIEWS[view],
                length=length, samples=max(1, own.num_samples * own.seq_len // length),
            )  # fmt: skip
            found = points(bench, recipe, f"{name}-{view}", lambda s, m=method: not done(m, s))
            for setting, model, seconds in found:
                resident = model.bitstack
                bits, size = resident.bits_per_weight, resident.resident_bytes
                yield bench.scored(method, setting, view, bits, size, model, seconds)
