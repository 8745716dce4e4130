"""`compress-model metric`: information capacity, the groups `density` and `gap`,
and a check of the order."""

from typing import Annotated

import typer

from bitstack.commands import metric_density, metric_gap
from bitstack.commands.shared import (
    STYLE,
    Budgets,
    Container,
    Device,
    Json,
    MaxBytes,
    Models,
    Quiet,
    Seed,
    Text,
    answer,
    one_or_all,
    silence,
)

app = typer.Typer(
    help="Information capacity, capacity density and capacity gap.", no_args_is_help=True, **STYLE
)
app.add_typer(metric_density.app, name="density")
app.add_typer(metric_gap.app, name="gap")


@app.command("order")
def order(
    folder: Container,
    text: Text,
    step: Annotated[float, typer.Option(help="Least growth between two stops.")] = 0.01,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window [default: the model's, 2048 at most].")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Use only the first tokens.")] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Whether the loss falls with every step along the order of a container."""
    silence(own=quiet)
    from bitstack.commands.metric_lines import order_lines
    from bitstack.metrics.loss.order_check import check_order

    found = check_order(
        folder, text, step=step, window=window, max_tokens=max_tokens, progress=not quiet
    )
    answer(order_lines(found), found.to_json(), json, quiet)


@app.command("information-capacity")
def information_capacity(
    models: Models,
    text: Text,
    budget: Budgets = None,
    variant: Annotated[
        str, typer.Option(metavar="[faithful|bytes]", help="As published, or by bytes of text.")
    ] = "faithful",
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a document [default: the model's, 1024 at most].")
    ] = None,
    bias: Annotated[
        float | None, typer.Option(help="Bits, of variant faithful [default: -27].")
    ] = None,
    denominator: Annotated[
        str | None,
        typer.Option(
            metavar="[flops|bytes|nanoseconds]",
            help="Cost of a byte of text, of variant bytes [default: flops].",
        ),
    ] = None,
    predict: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Foretell the NLL of this size of the same series."),
    ] = None,
    max_bytes: MaxBytes = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Bits saved on a text over the logarithm of what a token costs."""
    silence(own=quiet)
    from dataclasses import asdict

    from bitstack.commands.metric_lines import capacity_lines, prediction_line
    from bitstack.metrics.capacity.measured import measure_capacity
    from bitstack.metrics.capacity.measured import predict as foretell

    found = measure_capacity(
        models, text, budgets=budget or (), variant=variant, max_length=max_length, bias=bias,
        denominator=denominator, max_bytes=max_bytes, device=device, seed=seed,
        progress=not quiet,
    )  # fmt: skip
    prediction = None if predict is None else foretell(found, predict)
    lines = [line for one in found for line in capacity_lines(one)]
    rows = [one.to_json() for one in found]
    record = one_or_all(rows)
    if prediction is not None:
        lines.append(prediction_line(predict or "", prediction))
        record = {"models": rows, "prediction": asdict(prediction)}
    answer(lines, record, json, quiet)
