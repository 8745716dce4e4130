"""Loss over total resident bytes: our recipes, the published algorithm and other quantisers.

One model, one text, one table, one plot. Finished rows are kept in the work file, and a run goes
on where the last one stopped; a peer whose requirements conflict with ours is run from an
environment of its own into the same file, and is named in the table until it has been.

    python scripts/bench_quality.py --model ../shared/models/classics-5m
    python scripts/bench_quality.py --methods gptq hqq --tokens 20000
"""

import argparse
import gzip
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import quality_plot
import quality_report
from peers import METHODS
from peers.bench import Bench, Row
from quality_blimp import compare
from tqdm import tqdm

from bitstack.errors import UserError
from bitstack.json_file import write_json
from bitstack.opening import silence_transformers

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
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} tokens, if none are given")
    parser.add_argument("--blimp", action="store_true", help="original against 3 bits as well")
    parser.add_argument("--items", type=int, default=200, help="BLiMP pairs of every paradigm")
    parser.add_argument("--pairs", type=Path, default=SHARED / "benchmarks/blimp.tar.gz")
    parser.add_argument("--work", type=Path, default=work, help="folder of rows and containers")
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


class Rows:
    """Finished rows of one task in a file, one a line; other tasks' lines stay as they are."""

    def __init__(self, file: Path, task: dict[str, Any]) -> None:
        self.file, self.task = file, task
        lines = file.read_text().splitlines() if file.exists() else []
        found = [json.loads(line) for line in lines]
        self.rows = [Row(**line["row"]) for line in found if line["task"] == task]

    def has(self, method: str, setting: str) -> bool:
        return any(r.method == method and r.setting == setting for r in self.rows)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps({"task": self.task, "row": row.to_json()}) + os.linesep)


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


def main() -> None:
    options = arguments()
    silence_transformers()
    bench = open_bench(options)
    rows = Rows(options.work / f"rows-{bench.task.model}.jsonl", asdict(bench.task))
    missing = measure(bench, rows, options.methods)
    if options.json != "-":
        quality_report.report(bench, rows.rows, missing)
        plot = options.plot or options.work / f"quality-{bench.task.model}.png"
        quality_plot.plot(bench, rows.rows, plot)
        print(f"plot: {plot}")
    if options.blimp:
        compare(bench, options.pairs, options.items)
    if options.json:
        kept = [row.to_json() for row in rows.rows]
        write_json(options.json, {"task": asdict(bench.task), "missing": missing, "rows": kept})


if __name__ == "__main__":
    main()
