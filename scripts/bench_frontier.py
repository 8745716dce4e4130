"""Measures quality over the time to quantise, at the byte sizes of llama.cpp's types.

    python scripts/bench_frontier.py --model SmolLM2
    python scripts/bench_frontier.py --methods gptq matgptq
    python scripts/bench_frontier.py --kept

Our recipes, by the clock and without one, and the peers, on one model and one text: one table, the
targets, and one picture. Each setting is made in a process of its own, so that its peak memory and
its processor time are its own; its evaluation is not counted. Finished rows are kept in
scripts/quality: a run measures only the rows that are missing, and --kept measures none. Sizes
beside those of llama.cpp's types follow from the rows of the peers: run ours last, or again.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from bench_quality import kept_task, open_task, task_options
from frontier import ours, plot, report
from frontier.cost import MeteredBench, PricedRow
from frontier.settings import FAMILIES, MIX, Setting, own_sizes, settings, type_sizes
from peers import METHODS
from peers.bench import Task
from quality_presets import name_of
from quality_rows import FRONTIER, ROWS, Rows, file_of, forget
from tqdm import tqdm

from bitstack.commands.shared import errors_in_one_line, silence_libraries, write_result
from bitstack.errors import UserError

PICTURES = Path(__file__).resolve().parents[1] / ".github"
_STDERR = 2  # file descriptor; stdout is for the tables or the JSON


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    task_options(parser, Path("SmolLM2"))
    option, work = parser.add_argument, Path(tempfile.gettempdir()) / "bitstack-frontier"
    option("--methods", nargs="*", choices=FAMILIES, default=FAMILIES, help="measure only these")
    option("--fresh", action="store_true", help="drop their kept rows and measure them again")
    option("--kept", action="store_true", help="measure nothing, print the kept rows")
    option("--rows", type=Path, default=ROWS, help="folder of the kept rows")
    option("--work", type=Path, default=work, help="folder for the containers")
    option("--here", metavar="SETTING", help="measure one setting in this process, print nothing")
    option("--plot", type=Path, metavar="FILE.png", help="[default: in the folder .github]")
    option("--json", metavar="FILE", help="write the rows to FILE; - is stdout")
    return parser.parse_args(given)


def sizes_of(rows: Rows, folder: Path) -> list[int]:
    """Returns the bytes of llama.cpp's types, from our rows or from those of `bench_quality.py`."""
    return type_sizes(rows.rows, Rows(file_of(folder, rows.task.model), rows.task).rows)


def measure_here(options: argparse.Namespace) -> None:
    """Measures the missing rows of the setting `--here` in this process.

    Raises:
        UserError: There is no such setting.
    """
    bench = open_task(options, MeteredBench)
    rows = Rows(file_of(options.rows, bench.task.model, FRONTIER), bench.task, PricedRow)
    sizes = sizes_of(rows, options.rows)
    known = {setting.name: setting for setting in settings(rows.rows, sizes)}
    if options.here not in known:
        raise UserError(f"--here {options.here}: no setting; known are: {'; '.join(known)}")
    setting = known[options.here]
    bench.limits = setting.limits
    bench.sizes = lambda method: sizes if method == MIX else own_sizes(method, rows.rows, sizes)
    measured = setting.measure(bench, rows.has)  # imports the library of a peer
    if setting.family != "bitstack":  # meters itself, without our copy of the model
        bench.start()
    for row in measured:
        tqdm.write(report.line(row), file=sys.stderr)
        rows.add(row)


def measure(
    file: Path, task: Task, options: argparse.Namespace, given: Sequence[str]
) -> dict[str, str]:
    """Measures every setting with a missing row, each in a process of its own.

    Returns:
        The reason why a setting could not be measured, by its name.
    """
    missing = {}
    for setting in each_setting(file, task, options):
        known = METHODS.get(setting.family)
        if reason := known and known.missing():
            missing[setting.name] = reason
            continue
        print(f"measuring {setting.name}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, *_without(given, "--fresh"), "--here", setting.name]
        status = subprocess.run(command, stdout=_STDERR, check=False).returncode
        if status:
            missing[setting.name] = f"ended with status {status}; its own lines say why"
    return missing


def each_setting(file: Path, task: Task, options: argparse.Namespace) -> Iterator[Setting]:
    """Yields the settings of the chosen methods that lack a row, when their turn has come.

    What a setting lacks, and which there are, follows from the rows of those before it.
    """
    seen: set[str] = set()
    while True:
        rows = Rows(file, task, PricedRow)
        following = (
            setting for setting in settings(rows.rows, sizes_of(rows, options.rows))
            if setting.family in ("original", *options.methods) and setting.name not in seen
            and setting.lacks(rows.has)
        )  # fmt: skip
        setting = next(following, None)
        if setting is None:
            return
        seen.add(setting.name)
        yield setting


def _without(given: Sequence[str], word: str) -> list[str]:
    return [part for part in given if part != word]


def drop(file: Path, task: Task, options: argparse.Namespace) -> None:
    """Drops the kept rows of the chosen methods, and the containers of ours."""
    forget(file, task, options.methods)
    if "bitstack" in options.methods:
        ours.discard(options.work, task.model)


def run(options: argparse.Namespace, given: Sequence[str]) -> None:
    """Measures, prints the tables, and writes picture and JSON."""
    file = file_of(options.rows, name_of(options.model), FRONTIER)
    task = kept_task(file) if options.kept else open_task(options, MeteredBench).task
    if options.fresh and not options.kept:
        drop(file, task, options)
    missing = {} if options.kept else measure(file, task, options, given)
    rows = Rows(file, task, PricedRow)
    if options.json != "-":
        report.report(task, rows, missing)
        picture = options.plot or PICTURES / f"{FRONTIER}-{task.model}.png"
        if plot.plot(task, rows.rows, picture):
            print(f"picture: {picture}")
    if options.json:
        record = {"task": asdict(task), "missing": missing}
        write_result(options.json, record | {"rows": [row.to_json() for row in rows.rows]})


def main() -> None:
    silence_libraries()
    given = sys.argv[1:]
    options = arguments(given)
    with errors_in_one_line():
        if options.here:
            measure_here(options)
        else:
            run(options, given)


if __name__ == "__main__":
    main()
