"""`compress-model`: the commands put together, errors turned into exit codes.

Each command is a file of `bitstack.commands`: parse, call one function, print. torch, transformers
and pydantic are imported inside the commands, so that `--help` answers at once.
"""

import sys
from _thread import interrupt_main
from importlib.metadata import version
from threading import Timer
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bitstack.commands import (
    demo,
    evaluate,
    export,
    generate,
    metric,
    plan,
    push,
    report,
    run,
)
from bitstack.commands.shared import STYLE
from bitstack.errors import UserError

AGAIN = 0.1  # seconds


def interrupt_again(unraisable: Any) -> None:
    """`sys.unraisablehook`: Python drops what a finaliser or a weak reference's callback raises; an
    interrupt that falls into one comes again a moment later, outside it."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        timer = Timer(AGAIN, interrupt_main)
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(unraisable)


class _Commands(TyperGroup):
    """Turns errors into exit codes, and gives `run` its options when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, run.full_command() if name == "run" else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    help="Compress a causal language model once; load it into any memory budget.",
    no_args_is_help=True,
    **STYLE | {"add_completion": True},
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


app.command("demo")(demo.demo)
app.command("run")(run.command)
app.command("plan")(plan.plan)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("export")(export.export)
app.command("push")(push.push)
app.add_typer(metric.app, name="metric")
app.command("report")(report.report)


def main() -> None:
    """The console script."""
    sys.unraisablehook = interrupt_again
    app(prog_name="compress-model")


if __name__ == "__main__":
    main()
