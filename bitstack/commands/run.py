"""`compress-model run`: compresses a model.

Its options are made from the fields of the recipe, and only when it is called: see
`recipe_options`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from bitstack.commands.early import check_model_there
from bitstack.commands.shared import (
    STYLE,
    Json,
    Quiet,
    log_lines,
    silence_bitstack,
    silence_libraries,
    write_result,
)
from bitstack.machine.workers import is_first


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="DIR|NAME|FILE",
            help="Model to compress: folder of a Hugging Face model, its name on the Hub "
            "(owner/name), or a GGUF.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="New folder to write the container into; name the folder of an interrupted run to "
            "continue it.",
        ),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="How to compress: default; fast, without search and tuning; best, longer; paper, "
            "the published algorithm; or a YAML file with fields of a recipe.",
        ),
    ] = "default",
    time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long the run may take on this machine, for example 20m or 1h30m: text, "
            "search and tuning of the recipe are cut to what fits [default: as long as it takes].",
        ),
    ] = None,
    gguf_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Name of the GGUF in the folder or repository, for example model.Q8_0.gguf.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only predict the time, memory and disk that the run would take."
        ),
    ] = False,
    json: Json = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="Print one line for every matrix: its size, blocks, relative error and seconds.",
        ),
    ] = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Compress a model into a container.

    The options after --quiet are the fields of a recipe, most used first; an option overrides
    the recipe's own value. Options whose description begins with "codes:" belong to --method
    codes, those with "signs:" to --method signs.

    Example: compress-model run MODEL --output out/small --calibration a.txt
    """
    from bitstack.commands.recipe_options import recipe_fields
    from bitstack.container.output import check_output
    from bitstack.machine.durations import seconds_of
    from bitstack.original.documents import check_source
    from bitstack.recipe import GENERAL, NO_TEXT, load_recipe

    if quiet:
        silence_bitstack()
    resolved = load_recipe(recipe, **recipe_fields(options))
    seconds_of(time)  # refuses what is none
    check_output(output)
    check_model_there(model)
    if resolved.calibration not in (GENERAL, NO_TEXT):
        check_source(resolved.calibration)
    silence_libraries(also_bitstack=quiet)
    if dry_run:
        _predict(model, output, resolved, gguf_file, time, json, quiet)
        return
    from bitstack.commands.tables import container_lines, container_record
    from bitstack.compression.pipeline import compress
    from bitstack.container.manifest import read_manifest

    with log_lines(verbose), _told_how_to_go_on(output):
        folder = compress(
            model, output, recipe=resolved, gguf_file=gguf_file, progress=not quiet, time=time
        )
    if not is_first():
        return
    manifest = read_manifest(folder)
    if not quiet and json != "-":
        typer.echo("\n".join(container_lines(folder, manifest)))
    write_result(json, container_record(folder, manifest))


@contextmanager
def _told_how_to_go_on(output: Path) -> Iterator[None]:
    """Within it, an interrupt says how the run goes on, once there is something to go on from."""
    from bitstack.container.manifest import FOLDER

    try:
        yield
    except KeyboardInterrupt as stop:
        if not (output / FOLDER).is_dir():
            raise
        hint = f"run the same command again, and {output} goes on where it stopped"
        raise type(stop)(hint) from None


def _predict(
    model: str,
    output: Path,
    recipe: Any,
    gguf_file: str | None,
    time: str | None,
    json: str | None,
    quiet: bool,
) -> None:
    from dataclasses import asdict

    from bitstack.commands.tables import console, forecast_table
    from bitstack.compression.forecast import forecast
    from bitstack.machine.durations import seconds_of

    prediction = forecast(model, output, recipe, gguf_file=gguf_file, seconds=seconds_of(time))
    if not quiet and json != "-":
        console().print(forecast_table(prediction))
        if prediction.plan:
            typer.echo(f"planned for {time}: {prediction.plan}")
    write_result(json, asdict(prediction) | {"seconds": prediction.seconds})


def _with_signature(
    function: Callable[..., None], parameters: Iterable[Parameter]
) -> Callable[..., None]:
    """Returns `function` with these parameters; typer makes an option from each."""

    @wraps(function)
    def command(**values: Any) -> None:
        function(**values)

    command.__signature__ = Signature(list(parameters))  # type: ignore[attr-defined]
    return command


_OWN = [p for p in signature(run).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
command = _with_signature(run, _OWN)


def full_command() -> Any:
    """Returns `run` with an option for each field of the recipe; making them needs pydantic."""
    from bitstack.commands.recipe_options import recipe_options

    alone = typer.Typer(**STYLE)
    alone.command()(_with_signature(run, [*_OWN, *recipe_options()]))
    return typer.main.get_command(alone)
