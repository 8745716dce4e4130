"""What is wrong with a recipe, in words: one line for everything that pydantic found."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError


def describe(error: ValidationError, fields: Iterable[str]) -> str:
    """Returns every problem in one line: the field, its value, and what is allowed.

    Args:
        fields: Names of all fields, from which a misspelt one is guessed.
    """
    names = list(fields)
    return "; ".join(_problem(one, names) for one in error.errors())


def _problem(error: Any, names: list[str]) -> str:
    field = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, names, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        return f"no field {field}{hint} (fields: {', '.join(names)})"
    if error["type"] == "dict_type":
        return f"{field}: {error['input']!r}: a mapping is expected, such as " + (
            '{"*.down_proj": {blocks: 6}}' if field == "overrides" else "{blocks: 6}"
        )
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{field}: {error['input']!r}: {message}" if field else message
