"""The options of `compress-model run`, made from the fields of `Recipe`.

A field added there is an option here by itself. Values go to pydantic as they were written, so that
everything wrong with a recipe is reported at once; here only lists are split and mappings read.
"""

import re
from inspect import Parameter
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import yaml

from bitstack.errors import UserError
from bitstack.recipe import RENAMED, Recipe, load_recipe

_FIELD = re.compile(r"`(\w+)`")  # a field named in the description of another
_PLACEHOLDERS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def recipe_options() -> list[Parameter]:
    """Returns a keyword-only parameter for every field, then one for every old name of a field.

    Each is None where its option is not given. Options of old names are not shown by `--help`.
    """
    defaults = load_recipe()
    options = [_option(name, getattr(defaults, name)) for name in Recipe.model_fields]
    return options + [_old_option(old, new) for old, new in RENAMED.items()]


def recipe_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the recipe fields among the values of a command line, as `load_recipe` takes them.

    Raises:
        UserError: a mapping is neither YAML nor JSON.
    """
    names = [*Recipe.model_fields, *RENAMED]
    given = {name: options[name] for name in names if options.get(name) is not None}
    return {name: _value(name, value) for name, value in given.items()}


def _option(name: str, default: Any) -> Parameter:
    field = Recipe.model_fields[name]
    extra = field.json_schema_extra
    metavar = str(extra["metavar"]) if isinstance(extra, dict) else _metavar(field.annotation)
    words = _FIELD.sub(lambda match: _flag(match[1]), field.description or "")
    # An empty list or mapping is no value that could be typed.
    text = words if default in ([], {}) else f"{words} [default: {default_text(default)}]"
    return _parameter(name, field.annotation, metavar=metavar, help=text)


def _old_option(old: str, new: str) -> Parameter:
    return _parameter(old, Recipe.model_fields[new].annotation, metavar="", help="", hidden=True)


def _parameter(name: str, kind: Any, *, metavar: str, **shown: Any) -> Parameter:
    flag = _flag(name)
    annotation: Any
    if kind is bool:
        option = typer.Option(f"{flag}/--no-{flag[2:]}", show_default=False, **shown)
        annotation = Annotated[bool | None, option]
    else:
        option = typer.Option(flag, metavar=metavar, show_default=False, **shown)
        annotation = Annotated[str | None, option]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"[{'|'.join(str(value) for value in get_args(kind))}]"
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return f"{_metavar(item)},…"
    return _PLACEHOLDERS.get(kind, "TEXT")


def _value(name: str, text: Any) -> Any:
    """Returns the list or mapping that an option was written for; other values as they are."""
    kind = get_origin(Recipe.model_fields[RENAMED.get(name, name)].annotation)
    if kind is dict:
        return _mapping(name, text)
    if kind is not list:
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _mapping(name: str, text: str) -> Any:
    """Returns a mapping written as YAML, of which JSON is a part."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"--{name}: not valid YAML or JSON: {' '.join(str(error).split())}"
        ) from None


def default_text(value: Any) -> str:
    """Returns a default as it is typed on the command line; `none` for an empty list or mapping."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(str(part) for part in value) or "none"
    return str(value) if value or not isinstance(value, dict) else "none"
