"""Results as a person reads them: rich tables and a few lines of text. Nothing is computed here."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bitstack.machine.sizes import format_bytes
from bitstack.recipe import with_old_names

if TYPE_CHECKING:
    from bitstack.compression.forecast import Forecast
    from bitstack.container.manifest import Manifest
    from bitstack.container.planning import PlanRow
    from bitstack.demo import Demo
    from bitstack.hub.upload import Pushed
    from bitstack.metrics.loss.evaluation import Evaluation
    from bitstack.metrics.tasks.evaluation import TaskEvaluation
    from bitstack.metrics.tasks.scores import TaskScore

_PIPED = 120  # columns where no terminal says how many it has
_SHOWN = 5  # largest dense tensors of a container


def console() -> Console:
    """Prints to stdout, plain where that is no terminal."""
    return Console(
        width=None if sys.stdout.isatty() else _PIPED, highlight=False, markup=False, emoji=False
    )


def table(columns: Iterable[str], *, left: Iterable[str] = ()) -> Table:
    """An empty table; columns are right-aligned but those in `left`."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in columns:
        made.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    return made


def plan_table(rows: "list[PlanRow]") -> Table:
    """One line a budget."""
    context = rows[0].context
    sizes = ["resident\nbytes", "", "bits per\nweight", "levels", "of\noriginal"]
    cache = [f"KV cache,\n{context} tokens", "sum"] if context else []
    made = table(["budget", *sizes, *cache], left=["budget"])
    for row in rows:
        sums = [format_bytes(row.kv_cache_bytes or 0), format_bytes(row.total_bytes)]
        made.add_row(
            row.budget,
            str(row.resident_bytes),
            format_bytes(row.resident_bytes),
            f"{row.bits_per_weight:.2f}",
            f"{row.lowest_level}-{row.highest_level}",
            f"{row.original_share:.1%}",
            *(sums if context else []),
        )
    return made


def kernel_line(row: "PlanRow") -> str:
    """Which kernel would run on this machine, and why."""
    return f"kernel {row.kernel}: {row.kernel_reason}"


def evaluation_lines(found: "Evaluation") -> list[str]:
    """One fact a line, with how it was measured."""
    share = found.resident_bytes / found.original_bytes
    size = format_bytes(found.resident_bytes)
    large = "too large for a number" if found.perplexity is None else f"{found.perplexity:.4f}"
    return [
        f"model            {found.model}",
        f"resident         {found.resident_bytes} bytes ({size}, {share:.1%} of the original)",
        f"bits per weight  {found.bits_per_weight:.3f}",
        f"perplexity       {large}",
        f"bits per byte    {found.bits_per_byte:.4f}",
        f"nats per token   {found.nll_per_token:.4f}",
        f"measured on      {found.tokens} tokens of {found.text}, window {found.window}, "
        f"stride {found.stride}, {found.dtype} on {found.device}",
    ]


def task_table(found: "TaskEvaluation") -> Table:
    """One line a score, beside the original's where that is known."""
    beside = ["original", "recovery"] if found.original else []
    made = table(["task", "metric", "score", "± SE", "documents", *beside], left=["task", "metric"])
    for one in found.tasks:
        error = "-" if one.standard_error is None else f"{one.standard_error:.4f}"
        row = [one.task, one.metric, f"{one.value:.4f}", error, str(one.documents)]
        if found.original:
            row += ["-" if one.original is None else f"{one.original:.4f}", _recovery(one)]
        made.add_row(*row)
    return made


def _recovery(one: "TaskScore") -> str:
    if one.recovery is None:
        return "-"
    interval = one.recovery_interval
    around = "" if interval is None else f" ({interval.low:.1%} to {interval.high:.1%})"
    return f"{one.recovery:.1%}{around}"


def container_lines(folder: Path, manifest: "Manifest") -> list[str]:
    """What a run made, and what to do with it."""
    budgets = manifest.budgets
    dense = sorted(manifest.dense, key=lambda entry: -entry.bytes)
    largest = ", ".join(f"{entry.name} {format_bytes(entry.bytes)}" for entry in dense[:_SHOWN])
    more = f" and {len(dense) - _SHOWN} more" if len(dense) > _SHOWN else ""
    floor, total = budgets.floor_bytes, budgets.total_bytes
    return [
        f"wrote       {folder}",
        f"original    {_size(manifest.original_bytes)}",
        f"floor       {_size(floor)}, {floor / manifest.original_bytes:.1%} of the original",
        f"everything  {_size(total)}, {total / manifest.original_bytes:.1%} of the original",
        f"stacks      {len(manifest.stacks)} of {manifest.weights} weights",
        f"left dense  {format_bytes(manifest.fixed_bytes)} in {len(dense)} tensors: "
        f"{largest or 'none'}{more}",
        f"next        compress-model plan {folder}",
    ]


def container_record(folder: Path, manifest: "Manifest") -> dict[str, Any]:
    """The same for other tools: sizes in bytes."""
    budgets = manifest.budgets
    return {
        "folder": str(folder),
        "original_bytes": manifest.original_bytes,
        "floor_bytes": budgets.floor_bytes,
        "total_bytes": budgets.total_bytes,
        "stacks": len(manifest.stacks),
        "weights": manifest.weights,
        "dense_bytes": manifest.fixed_bytes,
        "dense": [entry.model_dump() for entry in manifest.dense],
        "recipe": with_old_names(manifest.recipe),
        "text": manifest.text,
    }


def forecast_table(found: "Forecast") -> Table:
    """What a run will take, and what there is."""
    made = table(["", "needed", "free"], left=[""])
    free = found.free_memory_bytes
    for name, seconds in (
        ("calibration", found.calibrate_seconds),
        ("decomposition", found.decompose_seconds),
        ("order and tuning, by one worker", found.finish_seconds),
        ("time, one worker", found.seconds),
    ):
        made.add_row(name, _duration(seconds), "")
    memory, disk = format_bytes(found.memory_bytes), format_bytes(found.disk_bytes)
    made.add_row(
        "memory at its peak, a worker", memory, "?" if free is None else format_bytes(free)
    )
    made.add_row("disk at its peak", disk, format_bytes(found.free_disk_bytes))
    made.add_row("container", format_bytes(found.container_bytes), "")
    made.add_row("original in memory", format_bytes(found.original_bytes), "")
    made.add_row("matrices", str(found.matrices), "")
    return made


def _duration(seconds: float) -> str:
    """`1 h 04 min`, `4 min 10 s`, `0.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _size(count: int) -> str:
    return f"{count} bytes ({format_bytes(count)})"


def push_lines(pushed: "Pushed") -> list[str]:
    """The files with their bytes, and where they went."""
    wide = max(len(str(size)) for size in pushed.files.values())
    files = [f"{size:>{wide}}  {file}" for file, size in pushed.files.items()]
    total = sum(pushed.files.values())
    where = pushed.url or f"dry run: nothing was sent; see {pushed.card}"
    removed = [f"removed {file}, of an earlier container" for file in pushed.removed]
    return [*files, f"{total:>{wide}}  bytes ({format_bytes(total)})", *removed, where]


def print_demo(to: Console, demo: "Demo") -> None:
    """The table of a demonstration, how it was measured, and where its files are."""
    to.print(_demo_table(demo))
    to.print(f"“{demo.prompt} …”", style="bold")
    wide = max(len(row.name) for row in demo.rows)
    for row in demo.rows:
        to.print(f"  {row.name:<{wide}}  {' '.join(row.continuation.split())}", soft_wrap=True)
    scored = demo.rows[0].scored
    to.print(
        f"\nMeasured on {scored.tokens} tokens of {scored.text}, window {scored.window}, stride "
        f"{scored.stride}, {scored.dtype} on {scored.device}, recipe {demo.recipe}. Tokens/s: "
        "median of single greedy steps, batch 1, on this machine as loaded now. Floor: one plane "
        f"of every matrix, {demo.floor_bytes} bytes.",
        soft_wrap=True,
    )
    for file in demo.files:
        to.print(f"plot: {file}", soft_wrap=True)


def _demo_table(demo: "Demo") -> Table:
    sizes = ["resident\nbytes", "", "of\noriginal", "bits per\nweight"]
    quality = ["perplexity", "bits per\nbyte", "tokens/s"]
    made = table(["budget", *sizes, *quality], left=["budget"])
    for row in demo.rows:
        scored = row.scored
        made.add_row(
            row.name,
            str(scored.resident_bytes),
            format_bytes(scored.resident_bytes),
            f"{scored.resident_bytes / scored.original_bytes:.1%}",
            f"{scored.bits_per_weight:.2f}",
            "-" if scored.perplexity is None else f"{scored.perplexity:.2f}",
            f"{scored.bits_per_byte:.4f}",
            f"{row.tokens_per_second:.1f}",
        )
    return made
