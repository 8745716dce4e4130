"""Summarises distillation runs: which teacher was the best, as JSON values and as a table.

Runs of one student size and one number of training tokens are compared on the same held-out
passages. Intervals are by bootstrap over passages; differences between teachers are paired, since a
passage is hard or easy for all students alike. Does not run anything; see
`scripts/pilot_capacity_gap.py`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitstack.metrics.gap.fit import Run, fit_gap
from bitstack.metrics.statistics.bootstrap import Interval, mean_interval

Row = dict[str, Any]


def summarise(runs: Sequence[Row], teachers: dict[str, float]) -> Row:
    """Returns the summary of all runs, as JSON values.

    Args:
        runs: Each with `student` (wanted parameters), `teacher`, `seed`, `tokens`, `losses` (nats
            per token, one per held-out passage), sizes and settings.
        teachers: The held-out loss of every teacher itself, by name.
    """
    groups: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for run in runs:
        groups[run["tokens"], run["student"]].append(run)
    parts = [_group(tokens, size, groups[tokens, size]) for tokens, size in sorted(groups)]
    lines = {
        str(tokens): asdict(fit_gap(_runs(parts, tokens)))
        for tokens in sorted({part["tokens"] for part in parts})
        if any(len(part["teachers"]) > 1 for part in parts if part["tokens"] == tokens)
    }
    settings = ("window", "learning_rate", "passages")
    return {
        "settings": {name: sorted({run[name] for run in runs}) for name in settings},
        "cpu_seconds": round(sum(run["cpu_seconds"] for run in runs)),
        "teacher_losses": {name: round(loss, 4) for name, loss in teachers.items()},
        "students": parts,
        "interior_optimum": any(part["interior"] for part in parts),
        "lines": lines,
    }


def table(summary: Row) -> str:
    """Returns a summary as a Markdown table, and below it what the table says in words."""
    parts = summary["students"]
    names = list(summary["teacher_losses"])
    head = ["student", "tokens", *names, "best teacher", "interior"]
    rows = [["teacher itself", "", *(f"{summary['teacher_losses'][n]:.3f}" for n in names), "", ""]]
    for part in parts:
        cells = {one["teacher"]: _cell(one) for one in part["teachers"]}
        interior = "yes" if part["interior"] else "no"
        size = f"{part['student']:,}"
        rows.append([size, f"{part['tokens']:,}", *(cells.get(n, "") for n in names)])
        rows[-1] += [part["best"], interior]
    lines = [" | ".join(row) for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([*(f"| {line} |" for line in lines), "", verdict(summary)]) + "\n"


def verdict(summary: Row) -> str:
    """Returns in words whether a teacher between the smallest and the largest tried is the best."""
    parts = [part for part in summary["students"] if len(part["teachers"]) > 1]
    interior = [f"{part['student']:,}" for part in parts if part["interior"]]
    if interior:
        return (
            f"An interior optimum shows for {len(interior)} of {len(parts)} rows: students of "
            f"{', '.join(interior)} parameters."
        )
    ends = {_end(part) for part in parts}
    best = f"the {ends.pop()} teacher tried was the best" if len(ends) == 1 else "see the rows"
    return (
        f"No interior optimum shows in {len(parts)} rows: {best}. The best teacher may lie beyond "
        "those tried, and no line is fitted."
    )


def _end(part: Row) -> str:
    place = [one["teacher"] for one in part["teachers"]].index(part["best"])
    return (
        "smallest" if place == 0 else "largest" if place == len(part["teachers"]) - 1 else "inner"
    )


def _group(tokens: int, size: int, runs: list[Row]) -> Row:
    """Returns all teachers of one student size and one number of tokens, smallest first."""
    by_teacher: dict[str, list[Row]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run["teacher_parameters"]):
        by_teacher[run["teacher"]].append(run)
    losses = {name: np.mean([r["losses"] for r in some], 0) for name, some in by_teacher.items()}
    best = min(losses, key=lambda name: float(losses[name].mean()))
    rows = [_teacher(name, by_teacher[name], losses[name], losses[best]) for name in losses]
    behind = [row["behind_best"] for row in (rows[0], rows[-1])]
    return {
        "student": size,
        "tokens": tokens,
        "best": best,
        # Only where the intervals say that both the smallest and the largest teacher are worse.
        "interior": len(rows) > 2 and all(one is not None and one["low"] > 0 for one in behind),
        "teachers": rows,
    }


def _teacher(name: str, runs: list[Row], losses: NDArray, best: NDArray) -> Row:
    seeds = [float(np.mean(run["losses"])) for run in runs]
    first = runs[0]
    return {
        "teacher": name,
        "teacher_parameters": first["teacher_parameters"],
        "student_parameters": first["student_parameters"],
        "student_total": first["student_total"],
        "shape": first["shape"],
        "pruned_loss": first["pruned_loss"],
        "loss": round(float(losses.mean()), 4),
        "interval": _json(mean_interval(losses)),
        "behind_best": _json(mean_interval(losses - best)),
        "seeds": [round(loss, 4) for loss in seeds],
    }


def _runs(parts: list[Row], tokens: int) -> list[Run]:
    return [
        Run(part["student"], one["teacher_parameters"], one["loss"])
        for part in parts
        if part["tokens"] == tokens
        for one in part["teachers"]
    ]


def _cell(one: Row) -> str:
    interval = one["interval"]
    half = "" if interval is None else f" ± {(interval['high'] - interval['low']) / 2:.3f}"
    return f"{one['loss']:.3f}{half}"


def _json(interval: Interval | None) -> Row | None:
    return None if interval is None else asdict(interval)
