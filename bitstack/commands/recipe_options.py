"""The options of `compress-model run`, made from the fields of `Recipe`.

A field added there is an option here by itself. Values go to pydantic as they were written, so that
everything wrong with a recipe is said at once; only shape (flag, list) is settled here.
"""

import types
from inspect import Parameter
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml

from bitstack.errors import UserError
from bitstack.recipe import RENAMED, Recipe, load_recipe

_PLACEHOLDERS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def recipe_options() -> list[Parameter]:
    """One keyword-only parameter for every field, None where the option is not given."""
    defaults = load_recipe()
    return [_option(name, getattr(defaults, name)) for name in Recipe.model_fields]


def recipe_fields(given: dict[str, Any]) -> dict[str, Any]:
    """The recipe fields among the values of a command line, as `load_recipe` takes them."""
    fields = {name: given[name] for name in Recipe.model_fields if given.get(name) is not None}
    return {name: _parts(name, value) for name, value in fields.items()}


def _option(name: str, default: Any) -> Parameter:
    field = Recipe.model_fields[name]
    kind = _plain(field.annotation)
    flags = [_flag(name), *(_flag(old) for old, new in RENAMED.items() if new == name)]
    text = f"{field.description or ''} [default: {_shown(default)}]".strip()
    if kind is bool:
        option = typer.Option(*(f"{f}/--no-{f[2:]}" for f in flags), help=text, show_default=False)
        return Parameter(
            name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[bool | None, option]
        )
    extra = field.json_schema_extra
    metavar = str(extra["metavar"]) if isinstance(extra, dict) else _metavar(kind)
    option = typer.Option(*flags, metavar=metavar, help=text, show_default=False)
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _plain(annotation: Any) -> Any:
    """The type of a field without `| None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        return _plain(rest[0]) if len(rest) == 1 else annotation
    return annotation


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"[{'|'.join(str(value) for value in get_args(kind))}]"
    if get_origin(kind) is dict:
        return "{…}"
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return f"{_metavar(item)},…"
    return _PLACEHOLDERS.get(kind, "TEXT")


def _parts(name: str, value: Any) -> Any:
    """The parts of a comma-separated list."""
    kind = get_origin(_plain(Recipe.model_fields[name].annotation))
    if kind is dict:
        return _mapping(name, value)
    if kind is not list:
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _mapping(name: str, value: str) -> Any:
    """A mapping written as YAML, which JSON is too."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(
            f"--{name}: not valid YAML or JSON: {' '.join(str(error).split())}"
        ) from None


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return str(value) if value else "none"
    return ",".join(str(part) for part in value) if isinstance(value, list) else str(value)
