"""`compress-model`: puts the commands together and turns errors into exit codes.

Each command is a file of `bitstack.commands`, which parses, calls one function and prints. torch,
transformers and pydantic are imported inside the commands, so that `--help` answers at once.
"""

import signal
import sys
from _thread import interrupt_main
from importlib.metadata import version
from threading import Timer
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from bitstack.commands import (
    chat,
    demo,
    evaluate,
    export,
    generate,
    metric,
    plan,
    push,
    report,
    run,
    serve,
    verify,
)
from bitstack.commands.shared import STYLE
from bitstack.errors import UserError
from bitstack.machine.allocator import freed_memory_kept

INTERRUPT_DELAY = 0.1  # seconds
UsageError: Any = typer.BadParameter.__base__  # typer does not export it


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: so batch systems stop their jobs."""


def terminate(*_: object) -> NoReturn:
    """Handles SIGTERM."""
    raise Terminated


def interrupt_again(unraisable: Any) -> None:
    """Sends an interrupt a second time where Python has dropped the first (`sys.unraisablehook`).

    Python drops what a finaliser or the callback of a weak reference raises. The second interrupt
    comes a moment later, outside of it.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        sent = signal.SIGTERM if issubclass(unraisable.exc_type, Terminated) else signal.SIGINT
        timer = Timer(INTERRUPT_DELAY, interrupt_main, (sent,))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(unraisable)


class _Commands(TyperGroup):
    """Turns errors into one line and an exit code; gives `run` its options when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, run.full_command() if name == "run" else command, rest

    def make_context(self, info_name: Any, args: list[str], *rest: Any, **extra: Any) -> Any:
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except UsageError as error:
            _fail_of_usage(error, str(info_name))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(str(error))
        except UsageError as error:
            _fail_of_usage(error, f"{ctx.command_path} {ctx.invoked_subcommand or ''}".strip())
        except KeyboardInterrupt as stop:
            typer.echo("; ".join(["interrupted", *map(str, stop.args)]), err=True)
            sent = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
            raise typer.Exit(128 + sent) from None


def _fail_of_usage(error: Any, command: str) -> NoReturn:
    """Prints what is wrong with the words of a command line, and where its options are listed."""
    if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command prints its help
        raise error
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    # The words of typer may leave out the value.
    if problems := getattr(error.__cause__, "errors", None):
        given = repr(problems()[0]["input"])
        message += "" if given in message else f" (given: {given})"
    command = error.ctx.command_path if error.ctx else command
    _fail(f"{message}; see {command} --help")


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    help="Compress a causal language model once; load it into any memory budget.\n\n"
    "Start with: compress-model run MODEL --output out/small --calibration a.txt",
    no_args_is_help=True,
    context_settings={"max_content_width": 120},  # columns of --help, where the terminal has them
    **STYLE | {"add_completion": True},
)


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"bitstack {version('bitstack')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version of bitstack, such as 0.1.0, and exit.",
        ),
    ] = False,
) -> None:
    """The options before the name of a command."""


app.command("demo")(demo.demo)
app.command("run")(run.command)
app.command("plan")(plan.plan)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("verify")(verify.verify)
app.command("export")(export.export)
app.command("push")(push.push)
app.add_typer(metric.app, name="metric")
app.command("report")(report.report)


def main() -> None:
    """Runs the console script `compress-model`."""
    sys.unraisablehook = interrupt_again
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # a caller may have it ignored
        signal.signal(signal.SIGTERM, terminate)
    with freed_memory_kept():
        app(prog_name="compress-model")


if __name__ == "__main__":
    main()
