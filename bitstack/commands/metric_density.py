"""`compress-model metric density`: effective size over actual size, and its growth in time."""

from pathlib import Path
from typing import Annotated

import typer

from bitstack.commands.early import check_inputs
from bitstack.commands.numbers import number
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
    TextOrNone,
    one_or_all,
    show_result,
    silence_libraries,
    silence_warnings,
    split_names,
    writable,
)
from bitstack.errors import UserError

app = typer.Typer(
    help="Capacity density: effective size over actual size.\n\n"
    "The effective size of a model is the size at which a reference series of models, by a law "
    "fitted on it, is as good (arXiv 2412.04315). For example: compress-model metric density score "
    "--help",
    no_args_is_help=True,
    **STYLE,
)
Pairs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.jsonl",
        help='Answers to measure the loss of, one per line: {"instruction": "2 + 2 =", "answer": '
        '" 4"}.',
    ),
]


@app.command("fit")
def fit(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS.json",
            help="The reference models: a list of objects with parameters, tokens (trained on), "
            "loss (nats) and score (0 to 1).",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="LAW.json",
            callback=writable("--output"),
            help="File to write the fitted law to.",
        ),
    ],
    training_tokens: Annotated[
        float,
        typer.Option(
            metavar="TOKENS",
            parser=number,
            help="Training tokens that every model is imagined to have, so that sizes compare, "
            "for example 1T.",
        ),
    ] = 1e12,
    floor: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            help="Score of a model that guesses, for example 0.25 with four choices "
            "[default: fitted].",
        ),
    ] = None,
    ceiling: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            help="Best score that a model can have, for example 1 [default: fitted].",
        ),
    ] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Fit the laws of loss and score to reference models.

    Example: compress-model metric density fit results.json --output law.json
    """
    silence_warnings(also_bitstack=quiet)
    from bitstack.commands.density_lines import law_lines
    from bitstack.metrics.density.fit import fit_law
    from bitstack.metrics.density.law_file import read_references, save_law, to_json

    law = fit_law(
        read_references(results), reference_tokens=training_tokens, floor=floor, ceiling=ceiling
    )
    save_law(law, output)
    show_result([*law_lines(law), f"wrote {output}"], to_json(law), json, quiet)


@app.command("score")
def score(
    models: Models,
    budget: Budgets = None,
    law: Annotated[
        str | None,
        typer.Option(
            metavar="[classics|pythia|LAW.json]",
            help="Law to go by: classics, of five models of 0.5M to 5.5M parameters and old books; "
            "pythia, of public models of 70M to 12B, for --tasks lambada or the --score of it; or "
            "a file that `density fit` wrote [default: classics].",
        ),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Score of the model, from 0 to 1, if it is known."),
    ] = None,
    score_error: Annotated[
        float,
        typer.Option(
            metavar="SE", help="Standard error of that score; it widens the confidence intervals."
        ),
    ] = 0.0,
    text: TextOrNone = None,
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
    """Compute the effective size and the density of models.

    Give one of --score, --tasks, --text and --pairs; it must be what the reference models of the
    law were measured by: the same kind of text, the same tasks or the same answers.

    Example: compress-model metric density score out/small --score 0.5
    """
    silence_warnings(also_bitstack=quiet)
    from bitstack.commands.density_lines import density_lines
    from bitstack.metrics.density import known_score
    from bitstack.metrics.density.law_file import named_law

    known_score.check_one_measure(score=score, tasks=tasks, text=text, pairs=pairs)
    check_inputs(*models, budgets=budget or (), texts=[text], files=[pairs])
    check_inputs(tasks=split_names(tasks), tasks_folder=tasks_folder)
    used = named_law(law)
    if score is not None:
        known = known_score.by_score(used, score, score_error, seed=seed)
        scored = known_score.score_known(models, known, budget or ())
    else:
        silence_libraries(also_bitstack=quiet)
        from bitstack.metrics.density.scoring import choose_measure, score_models

        measure = choose_measure(
            law, text=text, pairs=pairs, tasks=split_names(tasks), tasks_folder=tasks_folder,
            limit=limit, max_bytes=max_bytes, seed=seed, progress=not quiet,
        )  # fmt: skip
        scored = score_models(models, measure, budgets=budget or (), device=device)
    lines = [line for one in scored for line in density_lines(one, used)]
    show_result(lines, one_or_all([one.to_json() for one in scored]), json, quiet)


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
    """Measure the loss of answers given their instructions.

    Give --pairs or --tasks. A law can be fitted on such losses of several models.

    Example: compress-model metric density loss out/small --pairs pairs.jsonl
    """
    if (pairs is None) == (tasks is None):
        raise UserError("give --pairs FILE.jsonl or --tasks NAME,NAME: whose answers")
    check_inputs(*models, budgets=budget or (), files=[pairs])
    check_inputs(tasks=split_names(tasks), tasks_folder=tasks_folder)
    silence_libraries(also_bitstack=quiet)
    from bitstack.commands.density_lines import loss_lines
    from bitstack.metrics.density.scoring import answer_losses, answers

    losses = answer_losses(
        models, answers(pairs, split_names(tasks), tasks_folder, limit), budgets=budget or (),
        device=device, seed=seed, progress=not quiet,
    )  # fmt: skip
    lines = [line for one in losses for line in loss_lines(one)]
    show_result(lines, one_or_all([one.to_json() for one in losses]), json, quiet)


@app.command("trend")
def trend(
    released: Annotated[
        Path,
        typer.Argument(
            metavar="RELEASED.json",
            help="The models: a list of objects with name, date (YYYY-MM-DD) and density.",
        ),
    ],
    share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Also predict the day on which a model of this share of the size is as good as "
            "that of --since; 0.5 for half the size.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD",
            help="Day of the model that --share compares with [default: the last day of the file].",
        ),
    ] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Fit how fast the best density grows in time.

    Prints the days in which it doubles, from the models that were the densest when they came out.

    Example: compress-model metric density trend released.json --share 0.5
    """
    silence_warnings(also_bitstack=quiet)
    from bitstack.commands.density_lines import trend_lines
    from bitstack.metrics.density.trend import forecast

    prediction = forecast(released, share=share, since=since)
    show_result(trend_lines(prediction), prediction.to_json(), json, quiet)
