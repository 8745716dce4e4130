"""`compress-model`: parse, call one function, print.

No algorithm here. torch, transformers and pydantic are imported inside the commands, so that
`--help` answers at once; the options of `run` are the fields of the recipe.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.metadata import version
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bitstack.errors import UserError

_BUDGET = "800MB, 1.5GiB, 50% (of the original's bytes), 2.5bpw (bits per decomposed weight)"

Model = Annotated[
    str, typer.Argument(metavar="DIR|MODEL", help="Container, or original model folder.")
]
Container = Annotated[Path, typer.Argument(metavar="DIR", help="Container made by `run`.")]
Budget = Annotated[
    str | None, typer.Option(metavar="B", help=f"Bytes for the whole model: {_BUDGET}.")
]
Device = Annotated[str, typer.Option(metavar="[auto|cpu|cuda]", help="Where to run.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result here; - is stdout.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no summary, no warnings.")]


class _Commands(TyperGroup):
    """Turns errors into exit codes, and gives `run` its options when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _run_command() if name == "run" else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


_STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # its import would cost as much time as all the rest of --help
}
app = typer.Typer(
    cls=_Commands,
    help="Compress a causal language model once; load it into any memory budget.",
    no_args_is_help=True,
    **_STYLE,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"bitstack {version('bitstack')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show it.")
    ] = False,
) -> None:
    """Options of the command as a whole."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for container, table and plot.")] = Path(
        "out/demo"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Compress the embedded model and compare it at five budgets, offline."""
    _silence()
    from bitstack.demo import run_demo
    from bitstack.tables import console, print_demo

    print_demo(console(), run_demo(output, progress=not quiet))


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
    _silence(own=quiet)
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
app.command()(_signed(run, _RUN))


def _run_command() -> Any:
    from bitstack.options import recipe_options

    alone = typer.Typer(**_STYLE)
    alone.command()(_signed(run, [*_RUN, *recipe_options()]))
    return typer.main.get_command(alone)


@app.command()
def plan(
    folder: Container,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="B", help=f"May be given several times: {_BUDGET}."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of the KV cache [default: 4096 at most].")
    ] = None,
    json: Json = None,
) -> None:
    """Show exact bytes and KV cache for each budget."""
    _silence()
    from dataclasses import asdict

    from bitstack.json_file import write_json
    from bitstack.plan import plan
    from bitstack.tables import console, plan_table

    rows = plan(folder, budget or (), context=context)
    if json != "-":
        console().print(plan_table(rows))
    if json:
        write_json(json, [asdict(row) for row in rows])


@app.command("eval")
def evaluate(
    model: Model,
    text: Annotated[
        str, typer.Option(help="Text file, folder, FILE.jsonl or hf:DATASET[:CONFIG][:COLUMN].")
    ],
    budget: Budget = None,
    level: Annotated[
        int | None, typer.Option(metavar="J", help="Every stack at this level instead.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window [default: the model's, 2048 at most].")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens between windows [default: the window].")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Use only the first tokens.")] = None,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure perplexity and bits per byte on a text."""
    _silence()
    from bitstack.evaluate import evaluate
    from bitstack.json_file import write_json
    from bitstack.tables import evaluation_lines

    found = evaluate(
        model, text, budget=budget, level=level, window=window, stride=stride,
        max_tokens=max_tokens, device=device, progress=not quiet,
    )  # fmt: skip
    if json != "-" and not quiet:
        typer.echo("\n".join(evaluation_lines(found)))
    if json:
        write_json(json, found.to_json())


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    budget: Budget = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to add.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    draft_budget: Annotated[
        str | None, typer.Option(metavar="B", help="Draft with fewer blocks: the same greedy text.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Continue a prompt, printed as it comes."""
    _silence()
    from bitstack.generate import generate
    from bitstack.opening import open_model

    opened = open_model(model, budget=budget, device=device)
    generate(
        opened, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        stream=True, draft_budget=draft_budget,
    )  # fmt: skip


def _silence(*, own: bool = False) -> None:
    """Bars and warnings of the libraries below would stand between a command's own lines.

    With `own`, bitstack's warnings are not shown either.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if own:
        logging.getLogger("bitstack").setLevel(logging.ERROR)
    from bitstack.opening import silence_transformers

    silence_transformers()


def main() -> None:
    """The console script."""
    app(prog_name="compress-model")


if __name__ == "__main__":
    main()
