"""Reads a recipe by its name or from a YAML file, with fields overridden.

Does not check the fields; see `recipe.schema`.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bitstack.errors import UserError
from bitstack.recipe.old_names import current_names
from bitstack.recipe.problems import describe
from bitstack.recipe.schema import Recipe


def load_recipe(source: str | Path | Recipe | None = None, **overrides: Any) -> Recipe:
    """Reads a recipe and changes some of its fields.

    Args:
        source: Name of a recipe ("default", "fast", "best" or "paper"), a YAML file or a `Recipe`;
            None for "default". Fields that a file leaves out have their defaults.
        overrides: Fields to change; None leaves a field as it is.

    Returns:
        The recipe.

    Raises:
        UserError: There is no such name or file, or fields are unknown or out of range; all of
            them are listed in one message.

    Example:
        >>> import bitstack
        >>> recipe = bitstack.load_recipe("fast", blocks=4, calibration="text.txt")
        >>> recipe.blocks
        4
    """
    source = source or "default"
    if isinstance(source, Recipe):
        # Without the defaults, so that the new recipe knows too which fields were named.
        base, source = source.model_dump(exclude_unset=True), source.name
    else:
        base = _read(source)
    changes = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Recipe.model_validate(current_names(base) | current_names(changes))
    except ValidationError as error:
        raise UserError(f"recipe {source}: {describe(error, Recipe.model_fields)}") from None
    except ValueError as error:
        raise UserError(f"recipe {source}: {error}") from None


def _read(source: str | Path) -> dict[str, Any]:
    """Returns the fields in the file of a recipe, and its name where the file gives none."""
    from bitstack import recipes

    path = Path(source)
    if not path.suffix and str(source) in recipes.names():
        path = recipes.named(str(source))
    if not path.is_file():
        raise UserError(
            f"recipe {source}: no such name or file; give one of {', '.join(recipes.names())}, "
            "or the path of a YAML file"
        )
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates and nesting, too
        raise UserError(f"recipe {path}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"recipe {path}: cannot be read ({error.strerror})") from None
    if not isinstance(data, dict):
        raise UserError(
            f"recipe {path}: {data!r} is no mapping of fields; write one field a line, such as "
            "blocks: 4"
        )
    return {"name": path.stem} | data
