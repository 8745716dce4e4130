"""What the commands share: arguments and options in the same words, and silence of libraries.

torch, transformers and pydantic are never imported here, so that `--help` answers at once.
"""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

_BUDGET = "800MB, 1.5GiB, 50% (of the original's bytes), 2.5bpw (bits per decomposed weight)"

Model = Annotated[
    str, typer.Argument(metavar="DIR|NAME", help="Container or model: folder, or name on the Hub.")
]
Container = Annotated[
    str, typer.Argument(metavar="DIR|NAME", help="Container: folder, or owner/name on the Hub.")
]
Budget = Annotated[
    str | None, typer.Option(metavar="B", help=f"Bytes for the whole model: {_BUDGET}.")
]
Budgets = Annotated[
    list[str] | None, typer.Option("--budget", metavar="B", help=f"May be given often: {_BUDGET}.")
]
Models = Annotated[
    list[str], typer.Argument(metavar="DIR|MODEL...", help="Containers, or original models.")
]
Text = Annotated[
    str, typer.Option(help="Text file, folder, FILE.jsonl or hf:DATASET[:CONFIG][:COLUMN].")
]
Tasks = Annotated[
    str | None, typer.Option(metavar="A,B", help="Tasks of lm-eval, shipped or in the folder.")
]
TasksFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Data of the shipped tasks, or task files of your own."),
]
Limit = Annotated[int | None, typer.Option(help="Use only the first documents of each task.")]
MaxBytes = Annotated[int | None, typer.Option(help="Use only about so many bytes of the text.")]
Seed = Annotated[int, typer.Option(help="Of the intervals.")]
Device = Annotated[str, typer.Option(metavar="[auto|cpu|cuda]", help="Where to run.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result here; - is stdout.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no summary, no warnings.")]

STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # its import would cost as much time as all the rest of --help
}


def split(names: str | None) -> list[str] | None:
    """`a,b` as a list; None stays None."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


@contextmanager
def told_of(wanted: bool) -> Iterator[None]:
    """Within it bitstack's log lines are shown above the progress bar, where `wanted`."""
    if not wanted:
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


def answer(lines: Iterable[str], record: Any, json: str | None, quiet: bool = False) -> None:
    """Print `lines`, unless the record itself goes to stdout, and write the record if asked."""
    if json != "-" and not quiet:
        typer.echo("\n".join(lines))
    write_result(json, record)


def write_result(target: str | None, record: Any) -> None:
    """Write the record of a command to the file `target`, or to stdout for `-`; None: nowhere."""
    from bitstack.machine.files import json_text, write_json

    if target == "-":
        sys.stdout.write(json_text(record))
    elif target:
        write_json(target, record)


def one_or_all(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of several models, or of the only one."""
    return rows[0] if len(rows) == 1 else {"models": rows}


def silence(*, own: bool = False) -> None:
    """Bars and warnings of the libraries below would stand between a command's own lines.

    With `own`, bitstack's warnings and the bars of downloads are not shown either.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if own:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        logging.getLogger("bitstack").setLevel(logging.ERROR)
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    hub_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
