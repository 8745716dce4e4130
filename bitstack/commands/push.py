"""`compress-model push`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.early import check_container, check_inputs
from bitstack.commands.shared import (
    Budgets,
    Device,
    Json,
    MaxTokens,
    Original,
    Quiet,
    TextOrNone,
    Window,
    silence_libraries,
    split_names,
    write_result,
)
from bitstack.errors import UserError


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the container that `run` wrote.")
    ],
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Repository on the Hub to upload to, as owner/name; created if it does not exist.",
        ),
    ],
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Make a new repository private: only its owner, and people given access, see it.",
        ),
    ] = False,
    budget: Budgets = None,
    budgets: Annotated[str | None, typer.Option(metavar="B,B,…", hidden=True)] = None,
    text: TextOrNone = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Take budgets, loss and task scores from the .json that `report` wrote of this "
            "container, instead of measuring with --text.",
        ),
    ] = None,
    original: Original = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the original model on the Hub, as owner/name, which the model card links "
            "to [default: the name that `run` was given, if it is one on the Hub].",
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="License that the model card states, by its identifier on the Hub, such as "
            "apache-2.0 [default: the license of the base model].",
        ),
    ] = None,
    window: Window = None,
    max_tokens: MaxTokens = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Write the model card and list the files, but upload nothing."
        ),
    ] = False,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Upload a container to the Hub, with a model card.

    The card has a table of budgets: those of --budget, or some from the smallest model to
    everything. With --text each is measured, with --original the original is too. An upload that
    breaks goes on when the command is called again.

    Example: compress-model push out/small owner/name --text book.txt --dry-run
    """
    if original and not text:
        raise UserError(f"--original {original}: is measured on a text; name one with --text")
    from bitstack.original.hub_cache import check_name

    check_name(name)
    every = [*(budget or []), *(split_names(budgets) or [])]
    check_container(str(folder), budgets=every)
    check_inputs(texts=[text], files=[report])
    silence_libraries(also_bitstack=quiet)
    from bitstack.commands.tables import push_lines
    from bitstack.hub.measured import Text
    from bitstack.hub.upload import push

    measured = Text(text, original, max_tokens, window, device) if text else None
    pushed = push(
        folder, name, private=private, budgets=every,
        text=measured, report=report, base_model=base_model, license=license, dry_run=dry_run,
        progress=not quiet,
    )  # fmt: skip
    if json != "-" and not quiet:
        typer.echo("\n".join(push_lines(pushed)))
    write_result(json, pushed.to_json())
