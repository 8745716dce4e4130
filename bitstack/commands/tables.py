"""Writes results for a person: rich tables, and lines of text.

Computes nothing. The results of `compress-model metric` are in `commands.metric_lines`.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bitstack.machine.durations import format_duration
from bitstack.machine.sizes import format_bytes
from bitstack.recipe import with_old_names

if TYPE_CHECKING:
    from bitstack.compression.forecast import Forecast
    from bitstack.container.manifest import Manifest
    from bitstack.container.planning import PlanRow
    from bitstack.container.verification import Verified
    from bitstack.demo import Demo
    from bitstack.hub.upload import Pushed
    from bitstack.metrics.loss.evaluation import Evaluation
    from bitstack.metrics.tasks.evaluation import TaskEvaluation
    from bitstack.metrics.tasks.scores import TaskScore

_PIPED_WIDTH = 120  # columns where no terminal says how many it has
_DENSE_LISTED = 5  # tensors that stay dense and are listed by name, the largest first


def console() -> Console:
    """Returns a console that prints to stdout, without colours where that is no terminal."""
    return Console(
        width=None if sys.stdout.isatty() else _PIPED_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def table(columns: Iterable[str], *, left: Iterable[str] = ()) -> Table:
    """Returns an empty table; its columns are aligned to the right, but for those in `left`."""
    empty = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in columns:
        empty.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    return empty


def plan_table(rows: "list[PlanRow]") -> Table:
    """Returns a table with one line for each budget."""
    context = rows[0].context
    sizes = ["resident\nbytes", "", "bits per\nweight", "levels", "of\noriginal"]
    cache = [f"KV cache,\n{context} tokens", "sum"] if context else []
    output = table(["budget", *sizes, *cache], left=["budget"])
    for row in rows:
        sums = [format_bytes(row.kv_cache_bytes or 0), format_bytes(row.total_bytes)]
        output.add_row(
            row.budget,
            str(row.resident_bytes),
            format_bytes(row.resident_bytes),
            f"{row.bits_per_weight:.2f}",
            f"{row.lowest_level}-{row.highest_level}",
            f"{row.original_share:.1%}",
            *(sums if context else []),
        )
    return output


def kernel_line(row: "PlanRow") -> str:
    """Returns which kernel would run on this machine, and why."""
    return f"kernel {row.kernel}: {row.kernel_reason}"


def cache_line(row: "PlanRow") -> str | None:
    """Returns why the table counts no KV cache; None where it does."""
    unknown = "KV cache: not counted, because the model has none or one of its own kind"
    return None if row.context else unknown


def verified_lines(verified: "Verified") -> list[str]:
    """Returns the faults of a container, one a line, and how much was looked at."""
    looked = f"{verified.files} files, {verified.tensors} tensors, {format_bytes(verified.bytes)}"
    if verified.format is not None and not verified.checksums:
        looked += f"; tensors have no checksums in format {verified.format}, files have SHA-256"
    end = [] if verified.faults else ["no fault found"]
    return [*map(str, verified.faults), looked, *end]


def evaluation_lines(evaluation: "Evaluation") -> list[str]:
    """Returns the quality and size of a model, one fact a line, and how they were measured."""
    share = evaluation.resident_bytes / evaluation.original_bytes
    size = format_bytes(evaluation.resident_bytes)
    perplexity = evaluation.perplexity
    shown = "too large for a number" if perplexity is None else f"{perplexity:.4f}"
    first = evaluation.first_token
    begins = "" if first is None else f", every window begins with the tokenizer's BOS, id {first}"
    return [
        f"model            {evaluation.model}",
        f"resident         {evaluation.resident_bytes} bytes ({size}, {share:.1%} of the original)",
        f"bits per weight  {evaluation.bits_per_weight:.3f}",
        f"perplexity       {shown}",
        f"bits per byte    {evaluation.bits_per_byte:.4f}",
        f"nats per token   {evaluation.nll_per_token:.4f}",
        f"measured on      {evaluation.tokens} tokens of {evaluation.text}, "
        f"window {evaluation.window}, stride {evaluation.stride}, "
        f"{evaluation.dtype} on {evaluation.device}{begins}",
    ]


def task_table(evaluation: "TaskEvaluation") -> Table:
    """Returns a table with one line for each score, beside the original's if it was measured."""
    beside = ["original", "recovery"] if evaluation.original else []
    output = table(
        ["task", "metric", "score", "± SE", "documents", *beside], left=["task", "metric"]
    )
    for one in evaluation.tasks:
        error = "-" if one.standard_error is None else f"{one.standard_error:.4f}"
        row = [one.task, one.metric, f"{one.value:.4f}", error, str(one.documents)]
        if evaluation.original:
            row += ["-" if one.original is None else f"{one.original:.4f}", _recovery(one)]
        output.add_row(*row)
    return output


def _recovery(one: "TaskScore") -> str:
    if one.recovery is None:
        return "-"
    interval = one.recovery_interval
    bounds = "" if interval is None else f" ({interval.low:.1%} to {interval.high:.1%})"
    return f"{one.recovery:.1%}{bounds}"


def container_lines(folder: Path, manifest: "Manifest") -> list[str]:
    """Returns the sizes of the container that a run wrote, and the command to call next."""
    budgets = manifest.budgets
    dense = sorted(manifest.dense, key=lambda entry: -entry.bytes)
    largest = ", ".join(
        f"{entry.name} {format_bytes(entry.bytes)}" for entry in dense[:_DENSE_LISTED]
    )
    unlisted = len(dense) - _DENSE_LISTED
    more = f" and {unlisted} more" if unlisted > 0 else ""
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
    """Returns the same for `--json`: sizes in bytes, recipe fields under new and old names."""
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


def forecast_table(forecast: "Forecast") -> Table:
    """Returns a table of the time, memory and disk that a run needs, beside what is free."""
    output = table(["", "needed", "free"], left=[""])
    free = forecast.free_memory_bytes
    for name, seconds in (
        ("calibration", forecast.calibrate_seconds),
        ("decomposition", forecast.decompose_seconds),
        ("order and tuning, by one worker", forecast.finish_seconds),
        ("time, one worker", forecast.seconds),
    ):
        output.add_row(name, format_duration(seconds), "")
    memory, disk = format_bytes(forecast.memory_bytes), format_bytes(forecast.disk_bytes)
    output.add_row(
        "memory at its peak, a worker", memory, "?" if free is None else format_bytes(free)
    )
    output.add_row("disk at its peak", disk, format_bytes(forecast.free_disk_bytes))
    output.add_row("container", format_bytes(forecast.container_bytes), "")
    output.add_row("original in memory", format_bytes(forecast.original_bytes), "")
    output.add_row("matrices", str(forecast.matrices), "")
    return output


def _size(count: int) -> str:
    return f"{count} bytes ({format_bytes(count)})"


def push_lines(pushed: "Pushed") -> list[str]:
    """Returns the uploaded files with their bytes, and where they are now."""
    width = max(len(str(size)) for size in pushed.files.values())
    files = [f"{size:>{width}}  {file}" for file, size in pushed.files.items()]
    total = sum(pushed.files.values())
    where = pushed.url or f"dry run: nothing was sent; see {pushed.card}"
    removed = [f"removed {file}, of an earlier container" for file in pushed.removed]
    return [*files, f"{total:>{width}}  bytes ({format_bytes(total)})", *removed, where]


def print_demo(to: Console, demo: "Demo") -> None:
    """Prints the table of a demonstration, how it was measured, and where its files are."""
    to.print(_demo_table(demo))
    to.print(f"“{demo.prompt} …”", style="bold")
    width = max(len(row.name) for row in demo.rows)
    for row in demo.rows:
        to.print(f"  {row.name:<{width}}  {' '.join(row.continuation.split())}", soft_wrap=True)
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
    output = table(["budget", *sizes, *quality], left=["budget"])
    for row in demo.rows:
        scored = row.scored
        output.add_row(
            row.name,
            str(scored.resident_bytes),
            format_bytes(scored.resident_bytes),
            f"{scored.resident_bytes / scored.original_bytes:.1%}",
            f"{scored.bits_per_weight:.2f}",
            "-" if scored.perplexity is None else f"{scored.perplexity:.2f}",
            f"{scored.bits_per_byte:.4f}",
            f"{row.tokens_per_second:.1f}",
        )
    return output
