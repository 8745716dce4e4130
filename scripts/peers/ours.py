"""The recipes of this project, from one container each.

View `whole` decomposes embeddings and head too; view `linear` leaves them dense. A recipe keeps
its number of calibration tokens, in windows as long as those of the peers. `best`, which takes
longest, is measured only in the view `whole`: the targets for `linear` are those of the default.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bitstack.recipe import Recipe, load_recipe
from peers.bench import Bench, Row
from peers.containers import LAST, points
from peers.loops import Done

EMBEDDINGS = {"whole": "decompose", "linear": "dense"}  # the recipe's field, by view


@dataclass(frozen=True)
class Variant:
    """A recipe as it is measured."""

    recipe: str
    ending: str = ""  # of the method's name
    text: bool = True  # whether it calibrates
    views: tuple[str, ...] = ("whole", "linear")

    def method(self, view: str) -> str:
        """Returns the field `method` of its rows in a view."""
        linear = ", linear only" if view == "linear" else ""
        return f"bitstack {self.recipe}{self.ending}{linear}"


VARIANTS = {
    "default": Variant("default"),
    "fast": Variant("fast"),
    "best": Variant("best", views=("whole",)),
    "no-text": Variant("fast", ", no text", text=False),
}


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    for name in bench.limits.recipes:
        variant = VARIANTS[name]
        for view in variant.views:
            method = variant.method(view)
            sizes = bench.sizes(method)
            if done(method, LAST) and not sizes:
                continue

            def wanted(setting: str, method: str = method) -> bool:
                return not done(method, setting)

            recipe = recipe_of(bench, variant, view)
            loaded = points(bench, recipe, f"{name}-{view}", wanted, sizes)
            for setting, model, seconds in loaded:
                yield _row(bench, method, setting, view, model, seconds)


def recipe_of(bench: Bench, variant: Variant, view: str) -> Recipe:
    """Returns the recipe of a variant in a view, on the texts of the bench."""
    own, length = load_recipe(variant.recipe), bench.task.length
    text: dict[str, Any] = {"calibration": "none"}
    if variant.text:
        count = max(1, own.num_samples * own.seq_len // length)
        text = {"calibration": str(bench.calibration), "seq_len": length, "num_samples": count}
    return load_recipe(variant.recipe, embeddings=EMBEDDINGS[view], **text)


def _row(bench: Bench, method: str, setting: str, view: str, model: Any, seconds: float) -> Row:
    resident = model.bitstack
    bits, size = resident.bits_per_weight, resident.resident_bytes
    return bench.scored(method, setting, view, bits, size, model, seconds)
