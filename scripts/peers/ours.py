"""The recipes of this project, from one container each.

View `whole` decomposes embeddings and head too; view `linear` leaves them dense. A recipe keeps
its number of calibration tokens, in windows as long as those of the peers. `best`, which takes
longest, is measured only in the view `whole`: the targets for `linear` are those of the default.
"""

from collections.abc import Iterator

from bitstack.recipe import load_recipe
from peers.bench import Bench, Row
from peers.containers import LAST, points
from peers.loops import Done

EMBEDDINGS = {"whole": "decompose", "linear": "dense"}  # the recipe's field, by view
VIEWS = {"default": ("whole", "linear"), "fast": ("whole", "linear"), "best": ("whole",)}


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    for name, views in VIEWS.items():
        for view in views:
            method = f"bitstack {name}" if view == "whole" else f"bitstack {name}, linear only"
            if done(method, LAST):
                continue
            own, length = load_recipe(name), bench.task.length
            recipe = load_recipe(
                name, calibration=str(bench.calibration), embeddings=EMBEDDINGS[view],
                seq_len=length, num_samples=max(1, own.num_samples * own.seq_len // length),
            )  # fmt: skip
            loaded = points(bench, recipe, f"{name}-{view}", lambda s, m=method: not done(m, s))
            for setting, model, seconds in loaded:
                resident = model.bitstack
                bits, size = resident.bits_per_weight, resident.resident_bytes
                yield bench.scored(method, setting, view, bits, size, model, seconds)
