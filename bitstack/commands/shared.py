"""What the commands share: arguments and options in the same words, and how results are written.

torch, transformers and pydantic are never imported here, so that `--help` answers at once.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bitstack.commands.numbers import size, whole
from bitstack.errors import UserError

_BUDGET = (
    "Most bytes of the whole model in memory: 800MB, 1.5GiB, 50% (of the original's bytes) or "
    "2.5bpw (mean bits per compressed weight), floor (the smallest model) or everything"
)
_WHERE = "its folder, or its name on the Hub (owner/name)."
_TEXT = typer.Option(
    metavar="SOURCE",
    help="Text to measure on: a text file, a folder of text files, FILE.jsonl or FILE.json, "
    "or a data set of the Hub as hf:DATASET[:CONFIG][:COLUMN].",
)


def window_option(at_most: int) -> Any:
    """The option `--window` of a command whose windows hold `at_most` tokens by default."""
    return typer.Option(
        metavar="TOKENS",
        parser=whole,
        help="Length of the windows that the text is cut into, in tokens "
        f"[default: as many as the model reads, {at_most} at most].",
    )


Model = Annotated[
    str, typer.Argument(metavar="DIR|NAME", help=f"Container or original model: {_WHERE}")
]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="DIR|NAME",
        help="One or more containers or original models: folders, or names on the Hub "
        "(owner/name).",
    ),
]
Container = Annotated[
    str,
    typer.Argument(
        metavar="DIR|NAME",
        help=f"Container that `run` wrote: {_WHERE}",
    ),
]
Original = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|NAME",
        help=f"Original model to measure beside the container that was made from it: {_WHERE}",
    ),
]
Budget = Annotated[
    str | None, typer.Option(metavar="B", help=f"{_BUDGET} [default: everything is loaded].")
]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", metavar="B", help=f"{_BUDGET}. Repeat the option for several budgets."
    ),
]
Level = Annotated[
    int | None,
    typer.Option(
        metavar="J",
        parser=whole,
        help="Load every matrix at level J (J bits per weight), instead of a "
        "--budget; for example 3.",
    ),
]
Text = Annotated[str, _TEXT]
TextOrNone = Annotated[str | None, _TEXT]
Window = Annotated[int | None, window_option(at_most=2048)]
Stride = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        parser=whole,
        help="Distance between the starts of two windows, in tokens; less than the window gives "
        "every scored token more context and takes longer [default: the window].",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        parser=whole,
        help="Measure on the first TOKENS tokens of the text, for example 20k.",
    ),
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        metavar="BYTES",
        parser=size,
        help="Measure on about the first BYTES bytes of the text, such as 500kB.",
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        metavar="TOKENS",
        parser=whole,
        help="Most tokens of an answer, for example 200.",
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Benchmark tasks of lm-eval to score, separated by commas: blimp, lambada, hellaswag, "
        "piqa, arc_easy, arc_challenge, or task files of your own in --tasks-folder.",
    ),
]
TasksFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder with the data of these tasks, or with task files of your own."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=whole,
        help="Score the first N documents of each task only, for example 100.",
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="N", help="Seed of the random draws behind the confidence intervals.")
]
Temperature = Annotated[
    float,
    typer.Option(
        metavar="T",
        min=0,
        help="Randomness of the choice of tokens: 0 always takes the likeliest, 1 draws from "
        "the model's own probabilities.",
    ),
]
DrawSeed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        help="Seed of the random draws at a temperature above 0: the same seed gives the same "
        "text.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(
        help="Where the model runs; auto takes a GPU if there is one.",
    ),
]


def writable(option: str) -> Callable[[Any], Any]:
    """Returns the callback that refuses a file that could not be written, before the work is done.

    Args:
        option: The option that names the file.
    """

    def check(target: Any) -> Any:
        if target is not None and str(target) != "-":
            from bitstack.machine.files import check_target

            check_target(str(target), option=option)
        return target

    return check


Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        callback=writable("--json"),
        metavar="FILE",
        help="Also write the result to FILE as JSON; - writes it to stdout and prints no table.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Print no progress bar, no result and no warning.")
]

STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # its import would cost as much time as all the rest of --help
}


def split_names(names: str | None) -> list[str] | None:
    """Returns `a,b` as a list; None stays None."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


@contextmanager
def log_lines(shown: bool) -> Iterator[None]:
    """Within it, where `shown`, the log lines of bitstack appear above the progress bar."""
    if not shown:
        yield
        return
    from tqdm.contrib.logging import logging_redirect_tqdm

    log = logging.getLogger("bitstack")
    handler, level = logging.StreamHandler(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with logging_redirect_tqdm([log]):
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def show_result(lines: Iterable[str], record: Any, json: str | None, quiet: bool = False) -> None:
    """Prints `lines` unless `quiet` or stdout is for the record, and writes the record.

    Args:
        record: The result as JSON values.
        json: Value of `--json`: a file, `-` for stdout, or None.
    """
    if json != "-" and not quiet:
        typer.echo("\n".join(lines))
    write_result(json, record)


def write_result(target: str | None, record: Any) -> None:
    """Writes a record as JSON to the file `target`, or to stdout for `-`; None writes nothing."""
    from bitstack.machine.files import json_text, write_json

    if target == "-":
        sys.stdout.write(json_text(record))
    elif target:
        write_json(target, record)


def one_or_all(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the record of the only model, or of several under the key `models`."""
    return rows[0] if len(rows) == 1 else {"models": rows}


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the process with one line on stderr and exit code 2 where the user gave something wrong.

    For the scripts of this project; `compress-model` does the same for its commands.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def silence_bitstack() -> None:
    """Hides the warnings of bitstack."""
    logging.getLogger("bitstack").setLevel(logging.ERROR)


def silence_warnings(*, also_bitstack: bool = False) -> None:
    """Hides Python's warnings, without importing anything; `also_bitstack` hides bitstack's, too.

    Where a library is imported later after all, it hides its own.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    if also_bitstack:
        silence_bitstack()


def silence_libraries(*, also_bitstack: bool = False) -> None:
    """Imports transformers, and hides its progress bars and warnings and those of huggingface_hub.

    They would stand between the lines of a command. With `also_bitstack`, the warnings of bitstack
    and the bars of downloads are hidden too. Takes seconds: see `commands.early` for what is said
    before.
    """
    silence_warnings(also_bitstack=also_bitstack)
    from huggingface_hub.utils import enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    hub_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # and with it those of downloads
    if not also_bitstack:
        enable_progress_bars()
