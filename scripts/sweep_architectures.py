"""Compresses a small model of every causal architecture of transformers, and says how each ends.

    python scripts/sweep_architectures.py
    python scripts/sweep_architectures.py --types llama falcon --json rows.json
    python scripts/sweep_architectures.py --page       # writes docs/architectures.md too

A model is built from its default config with small sizes, saved in two ways, compressed, loaded
and exported. It ends as right (logits as near to the original's as the top level is, bytes and KV
cache as planned, export equal), refused (one line that says why), wrong or crashed. Types whose
default config does not build are listed apart. Prints a table by architecture; exit code 1 if one
is wrong or crashed.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap

import torch
from sweep.configs import MODEL_TYPES, build, small_config
from sweep.trial import ALLOWED as NOISES
from sweep.trial import CRASHED, RIGHT, WAYS, WRONG, Trial, run, save
from tqdm import tqdm
from transformers import AutoModelForCausalLM
from transformers import __version__ as VERSION

from bitstack.commands.shared import silence_bitstack, silence_libraries, write_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import pico  # the tests' tokenizer and text

# Long enough for two batches of windows, and no window like another.
TEXT = "\n".join(f"{number}: {pico.TEXT[number:]}" for number in range(30))
PAGE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"


@dataclass(frozen=True)
class Row:
    """How a model type ends."""

    model_type: str
    architecture: str  # class of the model, "" where none was built
    reason: str  # why none was built
    seconds: float
    trials: list[Trial]


def main(given: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    options = arguments(given)
    rows = []
    for row in tqdm(measured(options.types, options.processes), total=len(options.types)):
        rows.append(row)
        if not options.json:
            tqdm.write(line(row), file=sys.stdout)
    print(summary(rows), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        write_result(options.json, [asdict(row) for row in rows])
    if options.page:
        PAGE.write_text(page(rows))
    return int(any(t.verdict in (WRONG, CRASHED) for row in rows for t in row.trials))


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("--types", nargs="+", choices=MODEL_TYPES, default=MODEL_TYPES, metavar="TYPE")
    option("--processes", type=int, default=2, help="models at a time [default: 2]")
    option("--page", action="store_true", help="write docs/architectures.md")
    option("--json", metavar="FILE", help="write the rows to FILE; - is stdout")
    return parser.parse_args(given)


def measured(types: Sequence[str], processes: int) -> Iterator[Row]:
    """Yields the row of each model type, in their order."""
    fork = multiprocessing.get_context("fork")  # imports are made once
    with ProcessPoolExecutor(processes, mp_context=fork, initializer=quiet) as pool:
        yield from pool.map(measure, types)


def quiet() -> None:
    torch.set_num_threads(1)
    silence_libraries()
    silence_bitstack()


def measure(model_type: str) -> Row:
    """Builds, saves and tries one model type."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            model = build(small_config(model_type, pico.VOCABULARY))
            for way in WAYS:
                save(model, folder / way, way)
                pico.tokenizer().save_pretrained(folder / way)
                AutoModelForCausalLM.from_pretrained(folder / way)(torch.arange(10, 20)[None])
        except Exception as error:  # small sizes or a part of this environment do not suit it
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            return Row(model_type, "", reason, time.perf_counter() - start, [])
        (folder / "text.txt").write_text(TEXT)
        trials = [run(folder, way, folder / "text.txt") for way in WAYS]
    return Row(model_type, type(model).__name__, "", time.perf_counter() - start, trials)


def line(row: Row) -> str:
    """Returns the line of the table."""
    if not row.trials:
        return f"{row.model_type:<26} not built: {row.reason}"
    parts = []
    for trial in row.trials:
        right = f"share {trial.share:.2f} error {trial.error:.3f} of {trial.allowed:.3f}"
        parts.append(f"{trial.verdict} {right if trial.verdict == RIGHT else trial.detail}")
    return f"{row.model_type:<26} {row.seconds:5.1f} s  " + " | ".join(parts)


def page(rows: Sequence[Row]) -> str:
    """Returns the page of the documents: types by how they end, with shares and errors."""
    built = [row for row in rows if row.trials]
    about = (
        f"Written by `scripts/sweep_architectures.py --page` with transformers {VERSION}: a small "
        "model of every type that `AutoModelForCausalLM` opens and whose default config builds "
        "one, with random weights. Each was saved, compressed, loaded in full and exported in two "
        "ways: in one file without a text, and in several bf16 files with a text. *Right* means: "
        "the logits are those of the original within four times the error that noise of half a "
        "percent of every weight makes, bytes and KV cache are as `plan` says, and the export "
        f"computes the same. *Refused* means one line that says why. {summary(rows)}."
    )
    missing = ", ".join(row.model_type for row in rows if not row.trials)
    rest = (
        "*Decomposed* is the share of the parameters; the rest stays in 16 or 32 bits. Not built, "
        "because the small config does not suit the type, or needs a package that is not "
        f"installed: {missing}."
    )
    head = "| type | class | decomposed | error, error of the noise | without text | with text |"
    table = [head, "|---|---|---|---|---|---|", *(_page_line(row) for row in built)]
    lines = ["# Architectures", "", *wrap(about, 100), "", *table, "", *wrap(rest, 100), ""]
    return "\n".join(lines)


def _page_line(row: Row) -> str:
    plain, _ = row.trials
    ends = [t.verdict if t.verdict == RIGHT else f"{t.verdict}: {_why(t)}" for t in row.trials]
    noise = f"{plain.error:.3f}, {plain.allowed / NOISES:.3f}" if plain.allowed else ""
    return (
        f"| {row.model_type} | {row.architecture} | {plain.share:.0%} | {noise} | "
        f"{ends[0]} | {ends[1]} |"
    )


def _why(trial: Trial) -> str:
    """The reason without the folder that it begins with."""
    _, folder, reason = trial.detail.partition(": ")
    return (reason if folder else trial.detail).partition(";")[0]


def summary(rows: Sequence[Row]) -> str:
    """Returns the count of every verdict."""
    built = [row for row in rows if row.trials]
    ends = [t.verdict for row in built for t in row.trials]
    counts = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
    return (
        f"{len(built)} of {len(rows)} model types built, each saved in {len(WAYS)} ways: {counts}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
