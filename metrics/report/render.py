"""Writes a report as one page of HTML, as Markdown and as JSON.

The page holds all it needs: style, script and figures. The words are in the templates beside this
file. Does not measure; see `metrics.report.figures`.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from bitstack.errors import UserError
from bitstack.machine.files import write_json, write_text
from bitstack.machine.sizes import format_bytes
from bitstack.metrics.report.along_curve import ORIGINAL
from bitstack.metrics.report.axis import short_bytes
from bitstack.metrics.report.charts import bytes_axis, loss_chart
from bitstack.metrics.report.data import Report
from bitstack.metrics.report.levels import LevelMap, level_map
from bitstack.metrics.report.memory import memory_sizes
from bitstack.metrics.report.metric_charts import Group, interval_words, metric_groups
from bitstack.metrics.report.scores import score_table

PAGE, NOTES = "page.html.j2", "report.md.j2"


def html(report: Report) -> str:
    """Returns the page, which needs no other file and no network."""
    axis, levels = bytes_axis(report), level_map(report.manifest)
    loss, groups = loss_chart(report, axis), _groups(report)
    charts = [*filter(None, [loss]), *(chart for group in groups for chart in group.charts)]
    return str(
        template(PAGE).render(
            report=report,
            manifest=report.manifest,
            axis=axis,
            levels=levels,
            loss=loss,
            groups=groups,
            intervals=report.metrics and interval_words(report.metrics),
            scores=score_table(report),
            names=_names(report),
            made=_made(report),
            memories=memory_sizes(report),
            data=_data(report, levels) | {"charts": {c.key: c.data() for c in charts}},
        )
    )


def markdown(report: Report) -> str:
    """Returns the same numbers as Markdown, for a README or an issue."""
    return str(
        template(NOTES).render(
            report=report,
            manifest=report.manifest,
            groups=_groups(report),
            intervals=report.metrics and interval_words(report.metrics),
            scores=score_table(report),
            names=_names(report),
            made=_made(report),
        )
    )


def _groups(report: Report) -> list[Group]:
    if report.metrics is None:
        return []
    return metric_groups(report.metrics, bytes_axis(report))


def _made(report: Report) -> dict[str, str]:
    """Returns the versions of the software that made the container, and the time it took."""
    taken = {"time": report.making.words()} if report.making else {}
    return report.manifest.versions | taken


def _names(report: Report) -> list[str]:
    """Returns the names of all that was measured, the original first, then the largest budget."""
    original = [ORIGINAL] if report.original else []
    return original + [row.name for row in reversed(report.rows)]


def output_files(output: str | Path) -> tuple[Path, Path, Path]:
    """Returns the paths of page, Markdown and JSON.

    Raises:
        UserError: `output` does not end in .html, or its folder does not exist.
    """
    page = Path(output)
    if page.suffix not in (".html", ".htm"):
        raise UserError(f"--output {page}: must end in .html; .md and .json are written beside it")
    if not page.parent.is_dir():
        raise UserError(f"--output {page}: no folder {page.parent}; make it first")
    return page, page.with_suffix(".md"), page.with_suffix(".json")


def write_report(report: Report, output: str | Path) -> list[Path]:
    """Writes page, Markdown and JSON, each whole or not at all, and returns their paths.

    Raises:
        UserError: as `output_files`, and where a file cannot be written.
    """
    page, notes, numbers = files = output_files(output)
    contents = html(report), markdown(report)  # both made before either is written
    write_json(numbers, report.to_json(), option="--output")
    write_text(notes, contents[1], option="--output")
    write_text(page, contents[0], option="--output")
    return list(files)


def _data(report: Report, levels: LevelMap) -> dict[str, Any]:
    """Returns what the script needs of every block, as arrays: a model may have 100,000 blocks."""
    manifest = report.manifest
    original = report.original and report.original.scored
    budgets = manifest.budgets
    sizes = sorted({tuple(own) for own in budgets.stack_bytes})
    kind = {own: index for index, own in enumerate(sizes)}
    cells = [cell.stacks for row in levels.rows for cell in row.cells]
    cell_of = {stack: index for index, stacks in enumerate(cells) for stack in stacks}
    return {
        "fixed": budgets.fixed_bytes,
        "weights": manifest.weights,
        "original": manifest.original_bytes,
        "low": report.sizes[0],
        "high": report.sizes[-1],
        "axis": [bytes_axis(report).low, bytes_axis(report).high],
        "sizes": sizes,
        "kinds": [kind[tuple(own)] for own in budgets.stack_bytes],
        "cells": [cell_of[stack] for stack in range(len(manifest.stacks))],
        "names": [_name(row.label, cell.layer) for row in levels.rows for cell in row.cells],
        "experts": [entry.expert for entry in manifest.stacks],
        "order": manifest.order,
        "start": report.rows[len(report.rows) // 2].blocks if report.rows else 0,
        "rows": [
            [row.blocks, row.name, row.tokens_per_second, row.scored and row.scored.nll_per_token]
            for row in report.rows
        ],
        "loss": original and original.bits_per_byte,
        "container": report.container,
        "cache": [[e.fixed, e.per_token, e.window] for e in report.memory.cache or []],
        "positions": report.memory.positions,
        "context": report.context,
    }


def _name(label: str, layer: int | None) -> str:
    return label if layer is None else f"layer {layer}, {label}"


@cache
def template(name: str) -> Any:
    """Returns the template of that name, beside this file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "size": format_bytes,
        "short": short_bytes,
        "cell": lambda value: str(value).replace("|", "\\|"),
        "count": lambda number: f"{number:,}",
        "perplexity": lambda value: "too large" if value is None else f"{value:.4g}",
        "share": lambda part: f"{part:.1%}",
    }
    environment.filters.update(filters)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template(name)
