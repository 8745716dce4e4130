"""`compress-model plan`."""

from typing import Annotated

import typer

from bitstack.commands.shared import Budgets, Container, Json, Quiet, silence, write_result


def plan(
    folder: Container,
    budget: Budgets = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of the KV cache [default: 4096 at most].")
    ] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Show exact bytes and KV cache for each budget, and the kernel that would run."""
    silence(own=quiet)
    from dataclasses import asdict

    from bitstack.commands.tables import console, kernel_line, plan_table
    from bitstack.container.planning import plan

    rows = plan(folder, budget or (), context=context)
    if json != "-" and not quiet:
        console().print(plan_table(rows))
        console().print(kernel_line(rows[0]), soft_wrap=True)
    write_result(json, [asdict(row) for row in rows])
