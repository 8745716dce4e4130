"""Measures loss over bytes of the whole model: our recipes, the published one, other quantisers.

    python scripts/bench_quality.py --model ../shared/models/classics-5m
    python scripts/bench_quality.py --methods gptq hqq --tokens 20000
    python scripts/bench_quality.py --model classics-5m --kept
    python scripts/bench_quality.py --model SmolLM2

One model and one text give one table and one plot. Finished rows are kept in scripts/quality: a run
measures only the rows that are missing, and --kept measures none. Rows that bench_frontier.py kept
for the same texts count too, unless --fresh is given. A peer that needs other versions of libraries
runs in an environment of its own and adds to the same file.
"""

import argparse
import gzip
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import quality_equal
import quality_plot
import quality_report
from peers import METHODS
from peers.bench import Bench, Task
from peers.limits import Limits
from peers.ours import VARIANTS
from quality_blimp import compare
from quality_presets import PRESETS, Preset, folder_of, name_of
from quality_rows import FRONTIER, ROWS, Rows, file_of, forget, tasks
from tqdm import tqdm

from bitstack.commands.shared import errors_in_one_line, silence_libraries, write_result
from bitstack.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEXTS = SHARED / "text"
HEAD = 8_000_000  # characters of the calibration text that are read
QUICK = 20_000  # tokens of --quick
BY_MODEL = "[default: by model]"
B = TypeVar("B", bound=Bench)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    work = Path(tempfile.gettempdir()) / "bitstack-quality"
    task_options(parser, SHARED / "models/babyllama105")
    option, preset = parser.add_argument, BY_MODEL
    some: dict[str, Any] = {"nargs": "*", "metavar": "N", "type": int}
    option("--groups", **some, help=f"group sizes of the peers, of those they have {preset}")
    option("--bits", **some, help=f"bits of the peers, of those they have {preset}")
    option("--recipes", nargs="*", choices=list(VARIANTS), help=f"recipes of bitstack {preset}")
    methods = list(METHODS)
    option("--methods", nargs="*", choices=methods, help=f"measure only these {preset}")
    option("--fresh", action="store_true", help="drop their kept rows and measure them again")
    option("--kept", action="store_true", help="measure nothing, print the kept rows")
    option("--rows", type=Path, default=ROWS, help="folder of the kept rows")
    option("--quick", action="store_true", help=f"short for --tokens {QUICK}")
    option("--blimp", action="store_true", help="compare BLiMP at 3 bits with the original too")
    option("--items", type=int, default=200, help="BLiMP pairs of every paradigm")
    pairs = SHARED / "benchmarks/blimp.tar.gz"
    option("--pairs", type=Path, default=pairs, help="archive of BLiMP")
    option("--work", type=Path, default=work, help="folder for the containers")
    option("--plot", type=Path, metavar="FILE.png", help="[default: in the folder --work]")
    option("--json", metavar="FILE", help="write the rows to FILE; - is stdout")
    return parser.parse_args()


def task_options(parser: argparse.ArgumentParser, model: Path) -> None:
    """Adds the options that say what is measured; `model` is the default."""
    option = parser.add_argument
    option("--model", type=Path, default=model, help="folder, SmolLM2, or a name with --kept")
    option("--calibration", type=Path, help=f"calibration text file {BY_MODEL}")
    option("--text", type=Path, help=f"evaluation text file {BY_MODEL}")
    option("--tokens", type=int, help=f"use only the first tokens of the text {BY_MODEL}")
    option("--window", type=int, help=f"tokens of a window, and of the stride {BY_MODEL}")
    option("--samples", type=int, help=f"calibration windows of the peers {BY_MODEL}")


def open_bench(options: argparse.Namespace) -> Bench:
    """Opens the model with its texts, and the limits of its options.

    Raises:
        UserError: A text is neither given nor preset for the model.
    """
    preset = preset_of(options)
    if options.quick and not options.tokens:
        options.tokens = min(QUICK, preset.tokens)
    bench = open_task(options, Bench)
    bench.limits = limits(options, preset.limits)
    return bench


def open_task(options: argparse.Namespace, kind: type[B]) -> B:
    """Opens the model with its texts as the options of `task_options` say.

    Raises:
        UserError: A text is neither given nor preset for the model.
    """
    preset = preset_of(options)
    calibration = options.calibration or (preset.calibration and TEXTS / preset.calibration)
    text = options.text or (preset.text and TEXTS / preset.text)
    if not calibration or not text:
        raise UserError(f"{options.model}: no preset for it; give --calibration and --text")
    options.work.mkdir(parents=True, exist_ok=True)
    window = options.window or preset.window
    return kind(
        folder_of(options.model, options.work), head(Path(calibration), options.work), Path(text),
        options.work, tokens=options.tokens or preset.tokens, window=window,
        samples=options.samples or preset.samples, length=window,
    )  # fmt: skip


def preset_of(options: argparse.Namespace) -> Preset:
    return PRESETS.get(name_of(options.model), Preset())


def limits(options: argparse.Namespace, preset: Limits) -> Limits:
    """Returns which settings are measured: those of the options, else of the preset."""
    given: dict[str, Any] = {"groups": options.groups and tuple(options.groups)}
    given["bits"] = options.bits and dict.fromkeys(METHODS, tuple(options.bits))
    given["recipes"] = options.recipes and tuple(options.recipes)
    return replace(preset, **{name: value for name, value in given.items() if value})


def head(text: Path, work: Path) -> Path:
    """Returns a plain file with the first HEAD characters of a calibration text.

    Every method tokenises it, which for all of 30 MB would take most of its time.
    """
    with gzip.open(text, "rt") if text.suffix == ".gz" else text.open() as file:
        beginning = file.read(HEAD)
    cut = work / f"calibration-{text.name.removesuffix('.gz')}"
    if not cut.exists() or cut.read_text() != beginning:
        cut.write_text(beginning)
    return cut


def measure(bench: Bench, rows: Rows, methods: Sequence[str]) -> dict[str, str]:
    """Measures every row that is missing.

    Returns:
        The reason why a method could not be measured, by method.
    """
    missing = {}
    bench.sizes = lambda method: quality_equal.sizes(rows.rows, bench.task.model, method)
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
        except Exception as error:  # one peer that breaks must not stop the others
            reason = " ".join(str(error).split())[:200]
            missing[name] = f"{type(error).__name__}: {reason}"
    return missing


def kept_task(file: Path) -> Task:
    """Returns the task of the first kept rows.

    Raises:
        UserError: No rows are kept.
    """
    kept = tasks(file)
    if not kept:
        raise UserError(f"{file}: no rows are kept there; run without --kept, or give --rows")
    return kept[0]


def run(options: argparse.Namespace) -> None:
    """Measures, prints the tables, and writes plot and JSON."""
    file = file_of(options.rows, name_of(options.model))
    bench = None if options.kept else open_bench(options)
    task = bench.task if bench else kept_task(file)
    known = preset_of(options).methods
    methods = known if options.methods is None else options.methods
    if options.fresh and bench:
        forget(file, task, methods)
    others = None if options.fresh else file_of(options.rows, task.model, FRONTIER)
    rows = Rows(file, task, other=others)
    missing = measure(bench, rows, methods) if bench else {}
    for name in missing:
        missing[name] += "; kept rows are shown" if rows.of(name) else ""
    missing |= {name: "no rows" for name in known if not rows.of(name) and name not in missing}
    if options.json != "-":
        quality_report.report(task, rows.rows, missing, rows.made_by)
        plot = options.plot or options.work / f"quality-{task.model}.png"
        plot.parent.mkdir(parents=True, exist_ok=True)
        quality_plot.plot(task, rows.rows, plot)
        print(f"plot: {plot}")
    if options.blimp and bench:
        compare(bench, options.pairs, options.items)
    if options.json:
        record = {"task": asdict(task), "missing": missing}
        write_result(options.json, record | {"rows": [row.to_json() for row in rows.rows]})


def main() -> None:
    silence_libraries()
    with errors_in_one_line():
        run(arguments())


if __name__ == "__main__":
    main()
