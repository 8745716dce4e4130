"""`compress-model push`."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import Device, Json, Quiet, silence, write_result


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Container made by `run`.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Where to: owner/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="Only the owner and who is let in can see it.")
    ] = False,
    budgets: Annotated[
        str | None, typer.Option(metavar="B,B,…", help="Budgets of the card's table.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Measure each of them on this text, as `eval` does.")
    ] = None,
    original: Annotated[
        str | None,
        typer.Option(metavar="DIR|NAME", help="Measure this model beside them, for the recovery."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The original on the Hub [default: as `run` named it]."),
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="[default: that of the base model].")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window [default: the model's, 2048 at most].")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Use only the first tokens.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the card, list the files, upload nothing.")
    ] = False,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Upload a container to the Hub, with a model card."""
    silence(own=quiet)
    from bitstack.commands.tables import push_lines
    from bitstack.errors import UserError
    from bitstack.hub.measured import Text
    from bitstack.hub.upload import push

    if original and not text:
        raise UserError(f"--original {original}: is measured on a text; name one with --text")
    asked = [part.strip() for part in (budgets or "").split(",") if part.strip()]
    measured = Text(text, original, max_tokens, window, device) if text else None
    pushed = push(
        folder, name, private=private, budgets=asked, text=measured, base_model=base_model,
        license=license, dry_run=dry_run, progress=not quiet,
    )  # fmt: skip
    if json != "-" and not quiet:
        typer.echo("\n".join(push_lines(pushed)))
    write_result(json, pushed.to_json())
