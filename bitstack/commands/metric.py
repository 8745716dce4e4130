"""`compress-model metric`: information capacity, a check of the order, and what other files hold.

Those are the groups `density` (see `metric_density`) and `gap` (see `metric_gap`), and
`scores` (see `metric_scores`).
"""

from typing import Annotated, Literal

import typer

from bitstack.commands import metric_density, metric_gap, metric_scores
from bitstack.commands.early import check_container, check_inputs
from bitstack.commands.numbers import whole
from bitstack.commands.shared import (
    STYLE,
    Budgets,
    Container,
    Device,
    Json,
    MaxBytes,
    MaxTokens,
    Models,
    Quiet,
    Seed,
    Text,
    Window,
    one_or_all,
    show_result,
    silence_libraries,
)
from bitstack.machine.extras import require

app = typer.Typer(
    help="Measure models in other ways than by perplexity.\n\n"
    "Each command has a --help of its own, for example: compress-model metric order --help",
    no_args_is_help=True,
    **STYLE,
)
app.add_typer(metric_density.app, name="density")
app.add_typer(metric_gap.app, name="gap")


@app.command("order")
def order(
    folder: Container,
    text: Text,
    step: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="How much larger each measured model is than the one before, as a share of its "
            "bytes: 0.01 measures about every 1%.",
        ),
    ] = 0.01,
    window: Window = None,
    max_tokens: MaxTokens = None,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Check that a container's loss falls as it grows.

    Loads the smallest model of the container, adds blocks in their order, and measures the loss on
    the text at every step. Prints where a larger model has a higher loss.

    Example: compress-model metric order out/small --text book.txt
    """
    check_container(folder)
    check_inputs(texts=[text])
    silence_libraries(also_bitstack=quiet)
    from bitstack.commands.metric_lines import order_lines
    from bitstack.metrics.loss.order_check import check_order

    check = check_order(
        folder, text, step=step, window=window, max_tokens=max_tokens, device=device,
        progress=not quiet,
    )  # fmt: skip
    show_result(order_lines(check), check.to_json(), json, quiet)


@app.command("information-capacity")
def information_capacity(
    models: Models,
    text: Text,
    budget: Budgets = None,
    variant: Annotated[
        Literal["faithful", "bytes"],
        typer.Option(
            help="How the capacity is counted: faithful, per token, as published (arXiv "
            "2511.08066); or bytes, per byte of text, which also compares models with different "
            "tokenizers.",
        ),
    ] = "faithful",
    window: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            parser=whole,
            help="Length of the windows that the text is cut into, in tokens; with --variant "
            "faithful, of the beginning of every document that is measured [default: as many as "
            "the model reads; with faithful 1024 at most].",
        ),
    ] = None,
    bias: Annotated[
        float | None,
        typer.Option(
            metavar="BITS",
            help="Bits added to those saved, before the division; only with --variant faithful "
            "[default: -27, as published].",
        ),
    ] = None,
    denominator: Annotated[
        Literal["flops", "bytes", "nanoseconds"] | None,
        typer.Option(
            help="What a byte of text costs: operations, bytes read from memory, or measured time; "
            "only with --variant bytes [default: flops].",
        ),
    ] = None,
    predict: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME",
            help="Predict the loss of this model, another size of the same series; only its "
            "config.json is read. Only with --variant faithful.",
        ),
    ] = None,
    max_bytes: MaxBytes = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure what a model saves on a text for its cost.

    Information capacity is the bits that the model's predictions save on the text, divided by the
    logarithm of what one token costs to compute. Containers are measured at every --budget.

    Example: compress-model metric information-capacity out/small --text book.txt
    """
    if predict is not None:
        require("scipy")  # said before hours of measuring
    check_inputs(*models, budgets=budget or (), texts=[text])
    silence_libraries(also_bitstack=quiet)
    from dataclasses import asdict

    from bitstack.commands.metric_lines import capacities_lines, prediction_line
    from bitstack.metrics.capacity.measured import measure_capacity
    from bitstack.metrics.capacity.measured import predict as predict_loss

    measured = measure_capacity(
        models, text, budgets=budget or (), variant=variant, max_length=window, bias=bias,
        denominator=denominator, max_bytes=max_bytes, device=device, seed=seed,
        progress=not quiet,
    )  # fmt: skip
    prediction = None if predict is None else predict_loss(measured, predict)
    lines = capacities_lines(measured)
    rows = [one.to_json() for one in measured]
    record = one_or_all(rows)
    if prediction is not None:
        lines.append(prediction_line(predict or "", prediction))
        record = {"models": rows, "prediction": asdict(prediction)}
    show_result(lines, record, json, quiet)


app.command("scores")(metric_scores.scores)
