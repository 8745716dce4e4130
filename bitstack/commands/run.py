"""`compress-model run`: its options are the fields of the recipe, made when it is called."""

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from bitstack.commands.shared import STYLE, Json, Quiet, silence, told_of, write_result
from bitstack.machine.workers import is_first


def run(
    model: Annotated[str, typer.Argument(help="Hugging Face model folder, or name on the Hub.")],
    output: Annotated[Path, typer.Option(help="New folder for the container.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Recipe by name, or YAML file.")
    ] = "default",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Predict time, memory and disk, and stop there.")
    ] = False,
    json: Json = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="A line for every matrix: error, blocks, seconds.")
    ] = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Compress a model into a container.

    The options after --quiet are the fields of the recipe; given here, they override it.
    """
    from bitstack.commands.recipe_options import recipe_fields
    from bitstack.recipe import load_recipe

    resolved = load_recipe(recipe, **recipe_fields(options))
    silence(own=quiet)
    if dry_run:
        _predict(model, output, resolved, json, quiet)
        return
    from bitstack.commands.tables import container_lines, container_record
    from bitstack.compression.pipeline import compress
    from bitstack.container.manifest import read_manifest

    with told_of(verbose):
        folder = compress(model, output, recipe=resolved, progress=not quiet)
    if not is_first():
        return
    manifest = read_manifest(folder)
    if not quiet and json != "-":
        typer.echo("\n".join(container_lines(folder, manifest)))
    write_result(json, container_record(folder, manifest))


def _predict(model: str, output: Path, recipe: Any, json: str | None, quiet: bool) -> None:
    from dataclasses import asdict

    from bitstack.commands.tables import console, forecast_table
    from bitstack.compression.forecast import forecast

    found = forecast(model, output, recipe)
    if not quiet and json != "-":
        console().print(forecast_table(found))
    write_result(json, asdict(found) | {"seconds": found.seconds})


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
    from bitstack.commands.recipe_options import recipe_options

    alone = typer.Typer(**STYLE)
    alone.command()(_signed(run, [*_RUN, *recipe_options()]))
    return typer.main.get_command(alone)
