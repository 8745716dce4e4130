"""Compares what `compress-model run --dry-run` promises with what the run takes.

    python scripts/bench_forecast.py --cases demo
    python scripts/bench_forecast.py --kept

Time, peak memory and disk. Four cases: the demo model with 50 steps of tuning, SmolLM2 with recipe
fast in fp32 on all threads and in bf16 on one, and a Llama of random weights with the shape of
Llama-3.2-1B. Forecast and run are processes of their own. Finished cases are kept in
scripts/forecast, with the threads and the processor: a run measures only those that are missing.
Other work on the machine makes the times worthless.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from os import environ
from pathlib import Path

import smollm2
import torch
from bench_workers import build, run
from frontier.cost import vectors

from bitstack import recipes
from bitstack.commands.shared import errors_in_one_line, silence_libraries, write_result
from bitstack.commands.tables import console, table
from bitstack.machine.durations import format_duration
from bitstack.machine.sizes import format_bytes

ROWS = Path(__file__).parent / "forecast"
FIGURES = ("seconds", "memory_bytes", "disk_bytes")
ALLOWED = {"seconds": 0.3, "memory_bytes": 0.2, "disk_bytes": 0.2}  # relative error


@dataclass(frozen=True)
class Case:
    """One run: how its model is made, and the options of the command."""

    model: Callable[[Path], Path]  # from the work folder
    options: tuple[str, ...]
    threads: int = 0  # 0: as many as torch takes by itself


@dataclass(frozen=True)
class Row:
    """Promised and measured figures of a case, in the order of FIGURES."""

    case: str
    promised: list[float]
    measured: list[float]
    threads: int
    vectors: str  # best vector instructions of the processor


def bf16(work: Path) -> Path:
    """Returns SmolLM2 saved in bf16."""
    from transformers import AutoModelForCausalLM

    target = work / "SmolLM2-bf16"
    if not target.is_dir():
        source = smollm2.folder(work)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)
    return target


def one_billion(work: Path) -> Path:
    """Returns a Llama of random weights with the shape of Llama-3.2-1B and SmolLM2's tokenizer."""
    target = work / "random-1B"
    if not target.is_dir():
        source, partial = smollm2.folder(work), work / ".random-1B"
        build(partial, layers=16, vocabulary=128256, width=2048)
        for file in source.glob("*token*"):
            shutil.copy(file, partial)
        partial.rename(target)
    return target


CASES = {
    "demo": Case(lambda _: recipes.demo_model(), ("--recipe", "default", "--tune-steps", "50")),
    "fast": Case(smollm2.folder, ("--recipe", "fast")),
    "fast, bf16, 1 thread": Case(bf16, ("--recipe", "fast"), threads=1),
    "fast, 1B": Case(one_billion, ("--recipe", "fast")),
}


def measure(name: str, work: Path) -> Row:
    """Returns the row of a case; its container stays in the work folder."""
    case, output = CASES[name], work / f"container-{kept(name).stem}"
    threads = case.threads or torch.get_num_threads()
    model = case.model(work)
    shutil.rmtree(output, ignore_errors=True)
    promised = forecast(model, output, case.options, threads)
    with Disk(output) as disk:
        made = run(model, output, workers=1, threads=threads, options=[*case.options])
    measured = [made.seconds, made.peak_bytes, disk.peak]
    return Row(name, promised, measured, threads, vectors())


def forecast(model: Path, output: Path, options: tuple[str, ...], threads: int) -> list[float]:
    """Returns what the command promises, in the order of FIGURES."""
    command = [sys.executable, "-m", "bitstack.cli", "run", str(model), "--output", str(output)]
    command += [*options, "--dry-run", "--json", "-"]
    given = environ | {"OMP_NUM_THREADS": str(threads)}
    printed = subprocess.run(command, env=given, check=True, stdout=subprocess.PIPE).stdout
    found = json.loads(printed)
    return [found[figure] for figure in FIGURES]


class Disk:
    """Watches the bytes of a folder in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.peak = folder, 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Disk":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.5):
            self.peak = max(self.peak, folder_bytes(self.folder))


def folder_bytes(folder: Path) -> int:
    """Returns the bytes of all files in a folder; some may vanish meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def kept(name: str) -> Path:
    """Returns the file of a finished case."""
    return ROWS / f"{name.replace(', ', '-').replace(' ', '-')}.json"


def print_table(rows: list[Row]) -> None:
    """Prints promised and measured figures, and how far they are apart."""
    columns = ["case", "figure", "promised", "measured", "promised / measured", "allowed"]
    printed = table(columns, left=["case", "figure"])
    shown = (format_duration, format_bytes, format_bytes)
    for row in rows:
        figures = zip(FIGURES, shown, row.promised, row.measured, strict=True)
        for figure, text, promised, measured in figures:
            ratio, allowed = promised / measured, ALLOWED[figure]
            verdict = "yes" if 1 - allowed <= ratio <= 1 + allowed else "NO"
            within = f"{verdict}, within {allowed:.0%}"
            name = f"{row.case} ({row.threads} threads, {row.vectors})"
            unit = figure.removesuffix("_bytes")
            printed.add_row(
                name, unit, text(promised), text(measured), f"{ratio:.2f}", within
            )  # fmt: skip
    console().print(printed)


def measure_missing(names: list[str], work: Path) -> None:
    """Measures the cases that are not kept, and keeps each as soon as it is measured."""
    work.mkdir(parents=True, exist_ok=True)
    ROWS.mkdir(exist_ok=True)
    for name in names:
        if not kept(name).is_file():
            print(f"measuring {name}", file=sys.stderr, flush=True)
            row = measure(name, work)
            kept(name).write_text(json.dumps(asdict(row), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    option = parser.add_argument
    option("--cases", nargs="*", choices=[*CASES], default=[*CASES], help="measure only these")
    option("--fresh", action="store_true", help="measure them again, kept or not")
    option("--kept", action="store_true", help="measure nothing, print the kept cases")
    work = Path(tempfile.gettempdir()) / "bitstack-forecast"
    option("--work", type=Path, default=work, help="folder for models and containers")
    option("--json", metavar="FILE", help="write the rows to FILE; - is stdout")
    options = parser.parse_args()
    silence_libraries()
    with errors_in_one_line():
        for name in options.cases if options.fresh else ():
            kept(name).unlink(missing_ok=True)
        if not options.kept:
            measure_missing(options.cases, options.work)
        rows = [Row(**json.loads(kept(c).read_text())) for c in CASES if kept(c).is_file()]
        if options.json != "-":
            print_table(rows)
        write_result(options.json, [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
