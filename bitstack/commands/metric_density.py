"""`compress-model metric density`: effective size over actual size, and its growth in time."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.shared import (
    STYLE,
    Budgets,
    Device,
    Json,
    Limit,
    MaxBytes,
    Models,
    Quiet,
    Seed,
    Tasks,
    TasksFolder,
    answer,
    one_or_all,
    silence,
    split,
)

app = typer.Typer(
    help="Effective size over actual size, and its growth.", no_args_is_help=True, **STYLE
)
Pairs = Annotated[
    Path | None,
    typer.Option(metavar="FILE.jsonl", help="Lines with instruction and answer."),
]


@app.command("fit")
def fit(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS.json", help="List of objects: parameters, tokens, loss, score."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="LAW.json", help="Write the law here.")],
    reference_tokens: Annotated[
        float, typer.Option(metavar="D", help="Training tokens at which sizes are compared.")
    ] = 1e12,
    floor: Annotated[float | None, typer.Option(help="Score of chance [default: fitted].")] = None,
    ceiling: Annotated[
        float | None, typer.Option(help="Best score there can be [default: fitted].")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fit the laws of loss and score on a reference series."""
    silence(own=quiet)
    from bitstack.commands.metric_lines import law_lines
    from bitstack.metrics.density.fit import fit_law
    from bitstack.metrics.density.law_file import read_references, save_law

    law = fit_law(
        read_references(results), reference_tokens=reference_tokens, floor=floor, ceiling=ceiling
    )
    save_law(law, output)
    if not quiet:
        typer.echo("\n".join([*law_lines(law), f"wrote {output}"]))


@app.command("score")
def score(
    models: Models,
    budget: Budgets = None,
    law: Annotated[
        Path | None, typer.Option(metavar="LAW.json", help="Made by fit [default: the shipped].")
    ] = None,
    score: Annotated[float | None, typer.Option(help="The model's score, 0 to 1.")] = None,
    score_error: Annotated[float, typer.Option(help="Standard error of the score.")] = 0.0,
    text: Annotated[
        str | None, typer.Option(help="Text of the kind the law's series was measured on.")
    ] = None,
    pairs: Pairs = None,
    tasks: Tasks = None,
    tasks_folder: TasksFolder = None,
    limit: Limit = None,
    max_bytes: MaxBytes = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Effective parameters and densities, by a score or by a loss."""
    silence(own=quiet)
    from bitstack.commands.metric_lines import density_lines
    from bitstack.metrics.density.scoring import choose_measure, score_models

    measure = choose_measure(
        law, score=score, score_error=score_error, text=text, pairs=pairs,
        tasks=split(tasks), tasks_folder=tasks_folder, limit=limit,
        max_bytes=max_bytes, seed=seed, progress=not quiet,
    )  # fmt: skip
    found = score_models(models, measure, budgets=budget or (), device=device)
    lines = [line for one in found for line in density_lines(one)]
    answer(lines, one_or_all([one.to_json() for one in found]), json, quiet)


@app.command("loss")
def loss(
    models: Models,
    pairs: Pairs = None,
    tasks: Tasks = None,
    tasks_folder: TasksFolder = None,
    limit: Limit = None,
    budget: Budgets = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Conditional loss of answers, which a law is fitted on."""
    silence(own=quiet)
    from bitstack.commands.metric_lines import loss_lines
    from bitstack.metrics.density.scoring import answer_losses, answers

    found = answer_losses(
        models, answers(pairs, split(tasks), tasks_folder, limit), budgets=budget or (),
        device=device, seed=seed, progress=not quiet,
    )  # fmt: skip
    lines = [line for one in found for line in loss_lines(one)]
    answer(lines, one_or_all([one.to_json() for one in found]), json, quiet)


@app.command("trend")
def trend(
    released: Annotated[
        Path,
        typer.Argument(metavar="RELEASED.json", help="List of objects: name, date, density."),
    ],
    share: Annotated[
        float | None,
        typer.Option(help="By when is a model of this share of the size as good? 0.5: half."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Of today's model [default: last].")
    ] = None,
    json: Json = None,
) -> None:
    """Growth of the best density over time, and its doubling time."""
    silence()
    from bitstack.commands.metric_lines import trend_lines
    from bitstack.metrics.density.trend import forecast

    found = forecast(released, share=share, since=since)
    answer(trend_lines(found), found.to_json(), json)
