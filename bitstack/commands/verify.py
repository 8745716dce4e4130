"""`compress-model verify`."""

import typer

from bitstack.commands.early import check_model_there
from bitstack.commands.shared import Container, Json, Quiet, silence_libraries, write_result


def verify(folder: Container, json: Json = None, quiet: Quiet = False) -> None:
    """Check a container for damage: every file, and every tensor in it.

    One line for each fault, with its file and tensor, and exit code 2 where there is one. A
    container on the Hub is downloaded whole.

    Example: compress-model verify out/small
    """
    check_model_there(folder)
    silence_libraries(also_bitstack=quiet)
    from bitstack.commands.tables import verified_lines
    from bitstack.container.verification import verify
    from bitstack.errors import UserError

    verified = verify(folder, progress=not quiet)
    if json != "-" and not quiet:
        typer.echo("\n".join(verified_lines(verified)))
    write_result(json, verified.to_json())
    if verified.faults:
        count = len(verified.faults)
        raise UserError(
            f"{folder}: {count} fault{'s' if count > 1 else ''}, the first in {verified.faults[0]}"
        )
