"""Prints the rows of `bench_frontier.py`: what runs cost, KL at equal bytes, and the targets.

Does not measure; the KL of ours at a size is looked up by `quality_equal`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import quality_equal
from peers import family
from peers.bench import Row, Task
from peers.limits import EIGHT, SAME
from quality_curves import Curves
from quality_equal import Target
from quality_rows import Rows

from bitstack.commands.tables import console, table
from frontier.cost import PricedRow
from frontier.ours import BITS, RUNS
from frontier.settings import FAMILIES, GROUP, LLAMA, MIX, TYPES, WIDTHS

FAST, SHORT, LONG = (run.method for run in RUNS)
_WIDTHS = tuple(f"{bits} bits" for bits in WIDTHS)
TARGETS = (
    Target(FAST, LLAMA, TYPES),
    Target(LONG, LLAMA, TYPES, 0.6),
    Target(LONG, f"gptq g{GROUP}", _WIDTHS, 0.7),
    Target(LONG, f"matgptq g{GROUP}", _WIDTHS, 0.7),
    Target(LONG, f"matgptq g{GROUP}, from 2 bits", _WIDTHS, 0.7),
)
KEPT_TIME = {SHORT: 20, LONG: 60}  # minutes that were given
SLACK = 0.15  # of these
FAST_MINUTES, FAST_BYTES = 12, 3 * 2**29  # at most


def line(row: PricedRow) -> str:
    """Returns the line that is printed when a row is finished."""
    return (
        f"{row.method:<34} {row.setting:<14} {row.resident_bytes:>10} bytes  KL "
        f"{_number(row.kl_per_token)}  {row.seconds / 60:.1f} min, processor "
        f"{row.cpu_seconds / 60:.1f} min, peak {row.peak_bytes / 2**30:.2f} GiB"
    )


def report(task: Task, rows: Rows, missing: dict[str, str]) -> None:
    """Prints all tables and the targets.

    Args:
        task: What the rows measured.
        rows: Those of the original and of all settings.
        missing: Reason why a setting has no new rows, by name.
    """
    to = console()
    if any(row.method == "original" for row in rows.rows):
        curves = Curves(rows.rows)
        to.print(f"{task.model}, {task.tokens} tokens, windows of {task.window}, fp32.")
        for title, grid in tables(curves).items():
            to.print(title, soft_wrap=True)
            to.print(grid)
        to.print("= measured at those bytes, ~ interpolated, < all of the container, smaller.")
        to.print("\n".join(verdicts(curves)), soft_wrap=True)
    for commit, names in rows.made_by.items():
        to.print(f"measured by {commit}: {'; '.join(names)}", soft_wrap=True)
    for name, reason in missing.items():
        to.print(f"missing: {name}: {reason}", soft_wrap=True)
    if task.model in quality_equal.NOTES:
        to.print(quality_equal.NOTES[task.model], soft_wrap=True)


def tables(curves: Curves) -> dict[str, Any]:
    """Returns every table by its title."""
    own = f"ours: {'; '.join(_short(run.method) for run in RUNS)}, with the ratio to theirs."
    return {
        "What it takes to make a model, without its evaluation:": cost_table(curves),
        f"KL at the bytes of llama.cpp's types; {own}": type_table(curves),
        f"KL at the bytes of the peers; {own}": peer_table(curves),
        "Ours at bits of a weight, the whole model:": bits_table(curves),
    }


def cost_table(curves: Curves) -> Any:
    """Returns the table with a line for each process, without a rounded embedding."""
    columns = ["method", "setting", "minutes", "processor\nminutes", "peak\nGiB", "threads"]
    grid, seen = table([*columns, "vectors"], left=[*columns[:2], "vectors"]), set()
    for row in sorted(curves.rows, key=lambda r: FAMILIES.index(family(r.method))):
        method = _base(row.method)
        once = family(method) in ("bitstack", "matgptq")  # one model for all settings
        key = method, "" if once else row.setting
        if key not in seen:
            grid.add_row(
                *key, _minutes(row), f"{row.cpu_seconds / 60:.1f}", f"{row.peak_bytes / 2**30:.2f}",
                str(row.threads), row.vectors,
            )  # fmt: skip
        seen.add(key)
    return grid


def type_table(curves: Curves) -> Any:
    """Returns the table of llama.cpp's types, its mix at the same bytes, and ours."""
    columns = ["type", "bytes", "KL", "minutes", "mix", "minutes"]
    grid = table([*columns, *_own_columns()], left=columns[:1])
    mixes = {row.setting: row for row in curves.of(MIX, "whole")}
    for row in sorted(curves.of(LLAMA, "whole"), key=lambda r: r.resident_bytes):
        mix = mixes.get(f"{row.resident_bytes} bytes")
        cells = (_number(mix.kl_per_token), _minutes(mix)) if mix else ("-", "-")
        grid.add_row(
            row.setting, str(row.resident_bytes), _number(row.kl_per_token), _minutes(row), *cells,
            *_own_cells(curves, row),
        )  # fmt: skip
    return grid


def peer_table(curves: Curves) -> Any:
    """Returns the table of all other peers beside ours at their bytes."""
    columns = ["method", "bits", "em-\nbedding", "MB", "KL", "min"]
    grid = table([*columns, *_own_columns()], left=columns[:1])
    peers = [r for r in curves.rows if family(r.method) not in ("bitstack", "llama.cpp", MIX)]
    for row in sorted(peers, key=lambda r: r.resident_bytes):
        bits, method = row.setting.removesuffix(" bits"), _base(row.method)
        embedding = {"": "16", EIGHT: "8", SAME: bits}[row.method.removeprefix(method)]
        grid.add_row(
            method, bits, embedding, f"{row.resident_bytes / 1e6:.2f}", _number(row.kl_per_token),
            _minutes(row), *_own_cells(curves, row),
        )  # fmt: skip
    return grid


def bits_table(curves: Curves) -> Any:
    """Returns the table of ours at BITS."""
    columns = ["method", "bits", "bytes", "KL", "nats per\ntoken", "minutes"]
    grid = table(columns, left=columns[:1])
    for run in RUNS:
        for row in curves.of(run.method, "whole"):
            if row.setting in [f"{bits:g} bits" for bits in BITS]:
                grid.add_row(
                    row.method, f"{row.bits_per_weight:.2f}", str(row.resident_bytes),
                    _number(row.kl_per_token), f"{row.nll_per_token:.4f}", _minutes(row),
                )  # fmt: skip
    return grid


def _base(method: str) -> str:
    """Returns the name of a method without what is said of its embedding."""
    return method if method == LLAMA else method.removesuffix(EIGHT).removesuffix(SAME)


def _short(method: str) -> str:
    return method.removeprefix("bitstack ")


def _own_columns() -> list[str]:
    return [cell for run in RUNS for cell in (_short(run.method), "ratio")]


def _own_cells(curves: Curves, row: Row) -> Iterator[str]:
    for run in RUNS:
        own = quality_equal.at(curves, run.method, row.resident_bytes, "whole")
        yield from quality_equal.cells(row, own)


def verdicts(curves: Curves) -> Iterator[str]:
    """Yields the lines of all targets."""
    for target in TARGETS:
        yield from quality_equal.lines(curves, target, views=("whole",))
    yield "Time and memory:"
    for method, given in KEPT_TIME.items():
        most = given * (1 + SLACK)
        yield _bounded(curves, f"  {method}, minutes", method, lambda r: r.seconds / 60, most)
    yield _bounded(curves, f"  {FAST}, minutes", FAST, lambda r: r.seconds / 60, FAST_MINUTES)
    yield _bounded(
        curves, f"  {FAST}, GiB at the peak", FAST, lambda r: r.peak_bytes / 2**30,
        FAST_BYTES / 2**30,
    )  # fmt: skip


def _bounded(curves: Curves, what: str, method: str, value: Any, most: float) -> str:
    rows: Sequence[Any] = curves.of(method, "whole")
    if not rows:
        return f"{what}: not measured"
    found = value(rows[0])
    return f"{what}: {found:.2f}, at most {most:g}, {'met' if found <= most else 'MISSED'}"


def _minutes(row: Row) -> str:
    return f"{row.seconds / 60:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
