"""`compress-model metric gap`: a student against its teacher, and the best size of a teacher."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bitstack.commands.early import check_inputs
from bitstack.commands.numbers import number
from bitstack.commands.shared import (
    STYLE,
    Budget,
    Device,
    Json,
    MaxBytes,
    Quiet,
    Seed,
    Text,
    show_result,
    silence_libraries,
    silence_warnings,
    window_option,
)

app = typer.Typer(
    help="Capacity gap: a student model and its teacher.\n\n"
    "The student is the smaller model, taught by the teacher or, as a container, made from it. For "
    "example: compress-model metric gap measure --help",
    no_args_is_help=True,
    **STYLE,
)


@app.command("measure")
def measure(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER",
            help="The model compared with, for example the original: folder, or name on the Hub.",
        ),
    ],
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="The model that is compared, for example a container: folder, or name on the Hub.",
        ),
    ],
    text: Text,
    budget: Budget = None,
    window: Annotated[int | None, window_option(at_most=1024)] = None,
    max_bytes: MaxBytes = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure how far a student's predictions are from a teacher's.

    Prints KL divergence, difference in loss (both nats per token) and the share of tokens for which
    both models agree, also by position in the window and by how often the token occurs. --budget is
    the student's.

    Example: compress-model metric gap measure MODEL out/small --text book.txt
    """
    check_inputs(teacher, texts=[text])
    check_inputs(student, budgets=[budget])
    silence_libraries(also_bitstack=quiet)
    from bitstack.commands.gap_lines import gap_lines
    from bitstack.metrics.gap.measured import measure_gap

    measured = measure_gap(
        teacher, student, text, budget=budget, window=window, max_bytes=max_bytes,
        device=device, seed=seed, progress=not quiet,
    )  # fmt: skip
    show_result(gap_lines(measured), measured.to_json(), json, quiet)


@app.command("teacher")
def teacher(
    student: Annotated[
        float,
        typer.Option(
            metavar="N", parser=number, help="Parameters of the student, for example 350M or 1.5B."
        ),
    ],
    training_tokens: Annotated[
        float | None,
        typer.Option(
            metavar="TOKENS",
            parser=number,
            help="Training tokens of the student, for example 20B; needed by --law scratch.",
        ),
    ] = None,
    law: Annotated[
        Literal["pruned", "scratch"],
        typer.Option(
            help="How the student begins: pruned, cut out of its teacher (arXiv 2311.07052); or "
            "scratch, from random weights (arXiv 2502.08606).",
        ),
    ] = "pruned",
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Compute the best size of a teacher for a student.

    Example: compress-model metric gap teacher --student 350M
    """
    silence_warnings(also_bitstack=quiet)
    from dataclasses import asdict

    from bitstack.commands.gap_lines import teacher_lines
    from bitstack.metrics.gap.law import best_teacher

    best = best_teacher(student, tokens=training_tokens, law=law)
    show_result(teacher_lines(best), asdict(best), json, quiet)


@app.command("fit")
def fit(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="Your distillation runs, as a CSV file or a JSON list, with the fields student "
            "and teacher (parameters) and loss (nats of the student).",
        ),
    ],
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Fit the best teacher's size to your own runs.

    Needs runs of several students, each with several teachers.

    Example: compress-model metric gap fit runs.csv
    """
    silence_warnings(also_bitstack=quiet)
    from dataclasses import asdict

    from bitstack.commands.gap_lines import gap_fit_lines
    from bitstack.metrics.gap.fit import fit_gap, read_runs

    line = fit_gap(read_runs(table))
    show_result(gap_fit_lines(line), asdict(line), json, quiet)
