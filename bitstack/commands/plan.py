"""`compress-model plan`."""

from typing import Annotated

import typer

from bitstack.commands.numbers import whole
from bitstack.commands.shared import (
    Budgets,
    Container,
    Json,
    Quiet,
    silence_warnings,
    write_result,
)


def plan(
    folder: Container,
    budget: Budgets = None,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            parser=whole,
            help="Length of one sequence, in tokens, whose KV cache is added to the bytes "
            "[default: what the model reads, 4096 at most].",
        ),
    ] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Show the exact bytes in memory at each budget.

    Reads no weights. One line for each --budget; without one, seven budgets from the smallest model
    to everything. Below them stands the kernel that would run on this machine, and why.

    Example: compress-model plan out/small --budget 1.5GiB --context 2048
    """
    silence_warnings(also_bitstack=quiet)
    from dataclasses import asdict

    from bitstack.commands.tables import cache_line, console, kernel_line, plan_table
    from bitstack.container.planning import plan

    rows = plan(folder, budget or (), context=context)
    if json != "-" and not quiet:
        console().print(plan_table(rows))
        lines = [line for line in (cache_line(rows[0]), kernel_line(rows[0])) if line]
        console().print("\n".join(lines), soft_wrap=True)
    write_result(json, [asdict(row) for row in rows])
