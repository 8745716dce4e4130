"""Measures how well task scores are predicted: predicted and measured ones side by side.

    python scripts/bench_predicted_scores.py CONTAINER --original MODEL --text FILE \\
        --tasks blimp:670 --tasks-folder DIR --work FILE [--json FILE]

Tasks run at every budget. Then one, two or three budgets are taken as measured, beside the
original, in every choice, and the scores of the others are predicted from their KL divergence. Two
rivals draw a straight line between the measured scores, over the KL or over the bytes, and stay
level beyond the smallest measured size. Answers are kept in the file of `--work`: a run that was
stopped goes on.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from predicted_cases import METHODS, Sizes, cases, predictions, summary

from bitstack.commands.shared import errors_in_one_line, silence_libraries, write_result
from bitstack.errors import UserError
from bitstack.live.opening import Opened, open_model
from bitstack.metrics.gap.predicted_scores import MEASURED, TEXT_BYTES, kl_from
from bitstack.metrics.loss.documents import read_texts, texts_sha256
from bitstack.metrics.tasks.predicted import ORIGINAL
from bitstack.metrics.tasks.runner import run_tasks

BUDGETS = ["floor", "1.5bpw", "2bpw", "2.5bpw", "3bpw", "4bpw"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("container", help="folder of the container")
    parser.add_argument("--original", required=True, help="the model that it was made from")
    parser.add_argument("--text", required=True, help="text for the KL")
    parser.add_argument("--bytes", type=int, default=TEXT_BYTES, help="bytes of the text to read")
    tasks = "task:questions, separated by commas; the tasks must have choices"
    parser.add_argument("--tasks", default="blimp:670", help=tasks)
    parser.add_argument("--tasks-folder", required=True, help="folder of the tasks' data")
    parser.add_argument("--budget", nargs="+", default=BUDGETS, help="budgets at which tasks run")
    shown = "budgets taken as measured in the table; the summary takes every choice"
    parser.add_argument("--measured", nargs="+", default=list(MEASURED), help=shown)
    parser.add_argument("--work", type=Path, required=True, help="file that keeps the answers")
    parser.add_argument("--json", metavar="FILE", help="write the result to FILE; - is stdout")
    return parser.parse_args()


def collect(options: argparse.Namespace) -> Sizes:
    """Returns the answers of the original and of every budget; measures those not kept yet."""
    texts = read_texts(options.text, max_bytes=options.bytes)
    same = {"container": options.container, "original": options.original, "tasks": options.tasks}
    same["text_sha256"] = texts_sha256(texts)
    kept: dict[str, Any] = {"settings": same, "sizes": {}}
    if options.work.exists():
        kept = json.loads(options.work.read_text())
        if kept["settings"] != same:
            raise UserError(f"--work {options.work}: holds other settings; name another file")
    sizes: Sizes = kept["sizes"]
    missing = [name for name in (ORIGINAL, *options.budget) if name not in sizes]
    if missing:
        teacher = open_model(options.original)
    for name in missing:
        whole = name == ORIGINAL
        opened = teacher if whole else open_model(options.container, budget=name)
        sizes[name] = measure(opened, None if whole else teacher, texts, options)
        write_result(str(options.work), kept)
        print(f"{name}: tasks {sizes[name]['task_seconds']:.0f} s", flush=True)
    return {name: sizes[name] for name in (ORIGINAL, *options.budget)}


def measure(
    opened: Opened, teacher: Opened | None, texts: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Returns size, KL and margins of one model, and how long both took."""
    start = time.perf_counter()
    kl = 0.0 if teacher is None else kl_from(teacher, opened, texts)
    middle = time.perf_counter()
    margins = {}
    for named in options.tasks.split(","):
        task, _, limit = named.partition(":")
        number = int(limit) if limit else None
        for score in run_tasks(opened, [task], options.tasks_folder, limit=number):
            if score.margins:
                margins[f"{score.task} {score.metric}"] = list(score.margins)
    if not margins:
        raise UserError(f"--tasks {options.tasks}: none has questions with choices; take others")
    return {
        "resident_bytes": opened.resident_bytes, "kl": kl, "margins": margins,
        "kl_seconds": middle - start, "task_seconds": time.perf_counter() - middle,
    }  # fmt: skip


def show(sizes: Sizes, options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Prints the table of the chosen budgets, and the summary over all choices."""
    for score in sizes[ORIGINAL]["margins"]:
        print(f"{score}: measured at the original, {', '.join(options.measured)}")
        for one in sorted(predictions(sizes, score, tuple(options.measured)), key=lambda c: c.kl):
            print(
                f"  {one.budget:<10} KL {one.kl:.4f}  predicted {one.predicted:.4f} "
                f"({one.low:.4f} to {one.high:.4f})  measured {one.measured:.4f}  line over KL "
                f"{one.line_over_kl:.4f}, over bytes {one.line_over_bytes:.4f}"
            )
    print("every choice of measured budgets; errors are root mean squares, in points of a percent")
    for row in rows:
        where = "beyond" if row["extrapolated"] else "between"
        errors = ", ".join(f"{name} {row[name]:.2f}" for name in METHODS)
        print(
            f"  {row['score']}, {row['measured']} measured, {where}: {row['cases']} cases, "
            f"{errors}; {row['held']:.0%} in the interval, which is {row['width']:.1f} wide"
        )


def main() -> None:
    options = arguments()
    silence_libraries()
    with errors_in_one_line():
        sizes = collect(options)
        unknown = set(options.measured) - set(sizes)
        if unknown:
            raise UserError(f"--measured {' '.join(unknown)}: not among --budget")
        found = list(cases(sizes))
        rows = summary(found)
        show(sizes, options, rows)
        times = {name: {k: one[k] for k in ("kl_seconds", "task_seconds")}
                 for name, one in sizes.items()}  # fmt: skip
        write_result(options.json, {"summary": rows, "seconds": times,
                                    "cases": [asdict(one) for one in found]})  # fmt: skip


if __name__ == "__main__":
    main()
