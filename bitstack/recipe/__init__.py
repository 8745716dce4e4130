"""What a run is told: the fields of a recipe, with their defaults, limits and old names. Does not
hold the shipped recipes, see `bitstack.recipes`; compresses nothing, see `compression`."""

from bitstack.recipe.loading import load_recipe
from bitstack.recipe.old_names import RENAMED, current_names, with_old_names
from bitstack.recipe.schema import GENERAL, NO_TEXT, OVERRIDABLE, Recipe, matches

__all__ = [
    "GENERAL",
    "NO_TEXT",
    "OVERRIDABLE",
    "RENAMED",
    "Recipe",
    "current_names",
    "load_recipe",
    "matches",
    "with_old_names",
]
