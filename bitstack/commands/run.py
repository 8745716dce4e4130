"""`compress-model run`: its options are the fields of the recipe, made when it is called."""

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from bitstack.commands.shared import STYLE, Quiet, silence


def run(
    model: Annotated[str, typer.Argument(help="Hugging Face model folder, or name on the Hub.")],
    output: Annotated[Path, typer.Option(help="New folder for the container.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Recipe by name, or YAML file.")
    ] = "default",
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Compress a model into a container.

    The options after --quiet are the fields of the recipe; given here, they override it.
    """
    from bitstack.options import recipe_fields
    from bitstack.recipe import load_recipe

    resolved = load_recipe(recipe, **recipe_fields(options))
    silence(own=quiet)
    from bitstack.compress import compress
    from bitstack.container.manifest import read_manifest
    from bitstack.tables import container_lines

    folder = compress(model, output, recipe=resolved, progress=not quiet)
    if not quiet:
        typer.echo("\n".join(container_lines(folder, read_manifest(folder))))


def _signed(function: Callable[..., None], parameters: Iterable[Parameter]) -> Callable[..., None]:
    """`function` with a signature of its own, which is what typer makes options from."""

    @wraps(function)
    def signed(**given: Any) -> None:
        function(**given)

    signed.__signature__ = Signature(list(parameters))  # type: ignore[attr-defined]
    return signed


_RUN = [p for p in signature(run).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
command = _signed(run, _RUN)


def full_command() -> Any:
    """`run` with the options of the recipe, which take a while to make."""
    from bitstack.options import recipe_options

    alone = typer.Typer(**STYLE)
    alone.command()(_signed(run, [*_RUN, *recipe_options()]))
    return typer.main.get_command(alone)
