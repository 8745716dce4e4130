"""Loss over total resident bytes: our recipes, the published algorithm and other quantisers.

One model, one text, one table, one plot. Finished rows are kept in scripts/quality, and a run goes
on where the last one stopped, or prints what is there; a peer whose requirements conflict with ours
is run from an environment of its own into the same file, and is named until it has been.

    python scripts/bench_quality.py --model ../shared/models/classics-5m
    python scripts/bench_quality.py --methods gptq hqq --tokens 20000
    python scripts/bench_quality.py --model classics-5m --kept
"""

import argparse
import gzip
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import quality_plot
import quality_report
from peers import METHODS
from peers.bench import Bench, Task
from quality_blimp import compare
from quality_rows import ROWS, Rows, file_of, forget, tasks
from tqdm import tqdm

from bitstack.commands.shared import silence, write_result
from bitstack.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared"
# Calibration and evaluation text, tokens evaluated, calibration windows of 256 tokens: as many as
# our default recipe calibrates with, over all the text that it reads and tunes on. Second moments
# need no more; `--samples 4096` gives peers all of it, at four times their time.
PRESETS: dict[str, tuple[str, str, int, int]] = {
    "babyllama105": (
        "tinystories/tinystories_train_head.txt", "tinystories/tinystories_val.txt", 100_000, 1024,
    ),
    "classics-5m": ("classics/train.txt.gz", "classics/valid.txt.gz", 50_000, 1024),
}  # fmt: skip
HEAD = 8_000_000  # characters of the calibration text that are ever read
QUICK = 20_000  # tokens


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    work = Path(tempfile.gettempdir()) / "bitstack-quality"
    parser.add_argument("--model", type=Path, default=SHARED / "models/babyllama105")
    parser.add_argument("--calibration", type=Path, help="text file (preset for shared models)")
    parser.add_argument("--text", type=Path, help="text file to evaluate on (preset likewise)")
    parser.add_argument("--tokens", type=int, help="of the text (preset likewise)")
    parser.add_argument("--window", type=int, default=256, help="tokens, and the stride")
    parser.add_argument("--samples", type=int, help="calibration windows of the peers")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--fresh", action="store_true", help="measure those methods anew")
    parser.add_argument("--kept", action="store_true", help="measure nothing; print what is kept")
    parser.add_argument("--rows", type=Path, default=ROWS, help="folder of finished rows")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} tokens, if none are given")
    parser.add_argument("--blimp", action="store_true", help="original against 3 bits as well")
    parser.add_argument("--items", type=int, default=200, help="BLiMP pairs of every paradigm")
    parser.add_argument("--pairs", type=Path, default=SHARED / "benchmarks/blimp.tar.gz")
    parser.add_argument("--work", type=Path, default=work, help="folder of containers")
    parser.add_argument("--plot", type=Path, help="PNG (default: in the work folder)")
    parser.add_argument("--json", metavar="FILE", help="the rows; - is stdout")
    return parser.parse_args()


def open_bench(options: argparse.Namespace) -> Bench:
    """The model with its texts; UserError where a text is neither given nor preset."""
    preset = PRESETS.get(options.model.name, (None, None, 100_000, 128))
    calibration = options.calibration or (preset[0] and SHARED / "text" / preset[0])
    text = options.text or (preset[1] and SHARED / "text" / preset[1])
    if not calibration or not text:
        raise UserError(f"{options.model}: no preset for it; give --calibration and --text")
    options.work.mkdir(parents=True, exist_ok=True)
    return Bench(
        options.model, head(Path(calibration), options.work), Path(text), options.work,
        tokens=options.tokens or (QUICK if options.quick else preset[2]), window=options.window,
        samples=options.samples or preset[3], length=options.window,
    )  # fmt: skip


def head(text: Path, work: Path) -> Path:
    """The beginning of a calibration text as a plain file: tokenising 30 MB for each method
    would be most of its time."""
    with gzip.open(text, "rt") if text.suffix == ".gz" else text.open() as file:
        beginning = file.read(HEAD)
    made = work / f"calibration-{text.name.removesuffix('.gz')}"
    if not made.exists() or made.read_text() != beginning:
        made.write_text(beginning)
    return made


def measure(bench: Bench, rows: Rows, methods: list[str]) -> dict[str, str]:
    """Every row not measured yet; returns why methods are missing."""
    missing = {}
    if not rows.has("original", "16 bits"):
        size = bench.dense_bytes + 2 * bench.linear_weights
        rows.add(bench.scored("original", "16 bits", "both", 16.0, size, bench.model, 0.0))
    for name in methods:
        if reason := METHODS[name].missing():
            missing[name] = reason
            continue
        try:
            for row in METHODS[name].rows(bench, rows.has):
                tqdm.write(quality_report.line(row))
                rows.add(row)
        except UserError:
            raise
        except Exception as error:  # a peer that breaks is named, and the others go on
            reason = " ".join(str(error).split())[:200]
            missing[name] = f"{type(error).__name__}: {reason}"
    return missing


def kept_task(file: Path) -> Task:
    """What the kept rows measured; UserError where there are none."""
    found = tasks(file)
    if not found:
        raise UserError(f"{file}: no rows are kept there; run without --kept, or give --rows")
    return found[0]


def run(options: argparse.Namespace) -> None:
    file = file_of(options.rows, options.model.resolve().name)
    bench = None if options.kept else open_bench(options)
    task = bench.task if bench else kept_task(file)
    if options.fresh and bench:
        forget(file, task, options.methods)
    rows = Rows(file, task)
    missing = measure(bench, rows, options.methods) if bench else {}
    for name in missing:
        missing[name] += "; kept rows are shown" if rows.of(name) else ""
    missing |= {name: "no rows" for name in METHODS if not rows.of(name) and name not in missing}
    if options.json != "-":
        quality_report.report(task, rows.rows, missing, rows.made_by)
        plot = options.plot or options.work / f"quality-{task.model}.png"
        plot.parent.mkdir(parents=True, exist_ok=True)
        quality_plot.plot(task, rows.rows, plot)
        print(f"plot: {plot}")
    if options.blimp and bench:
        compare(bench, options.pairs, options.items)
    if options.json:
        found = [row.to_json() for row in rows.rows]
        write_result(options.json, {"task": asdict(task), "missing": missing, "rows": found})


def main() -> None:
    silence()
    try:
        run(arguments())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
