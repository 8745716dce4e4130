"""The figures of a report, from the code that the commands run: `plan`, `eval`, decoding speed.

One model is in memory at a time. Nothing is written here.
"""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bitstack.budget import Budget
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.device import pick_device
from bitstack.download import locate
from bitstack.errors import UserError
from bitstack.evaluate import Evaluation, score
from bitstack.kernels import which
from bitstack.metrics.along_curve import MetricsCurve, metrics_along_curve
from bitstack.metrics.decode_speed import seconds_per_token
from bitstack.metrics.report.data import Original, Report, Row
from bitstack.opening import is_container, open_model
from bitstack.plan import plan
from bitstack.source import open_source
from bitstack.text import token_ids

# Between the floor and everything: quality changes most below 3 bits a weight.
BUDGETS = ("1.5bpw", "2bpw", "2.5bpw", "3bpw", "4bpw", "6bpw")
MAX_TOKENS = 20_000
METRIC_BYTES = 50_000
SPEED_TOKENS = 32


def collect(
    folder: str | Path,
    *,
    text: str | None = None,
    budgets: Sequence[str | int | Budget] = (),
    original: str | Path | None = None,
    max_tokens: int | None = MAX_TOKENS,
    window: int | None = None,
    stride: int | None = None,
    metrics: bool = True,
    device: str = "auto",
    progress: bool = False,
) -> Report:
    """The report of the container `folder`, measured on the source `text` where one is given.

    Without `budgets`: the floor, everything, and BUDGETS between. `original` is the folder it was
    made from; without it, a folder of that name and size in the working directory or beside the
    container. `metrics` adds information capacity, capacity density and capacity gap, on the first
    METRIC_BYTES of the text. Without `text` no model is loaded. UserError for what `plan`,
    `open_model`, `token_ids` and `score` refuse, and for an original of another size.
    """
    container = locate(folder).folder
    manifest = read_manifest(container)
    pick_device(device)
    source = _original(container, manifest, original)
    report = Report(str(folder), manifest, _rows(container, manifest, budgets))
    if text is None:
        return report
    options: dict[str, Any] = {"max_tokens": max_tokens, "window": window, "stride": stride}
    named = [(row.name, folder, row.plan.budget_bytes) for row in report.rows]
    found = []
    everyone: list[tuple[str, str | Path, int | None]] = [
        *([("original", source, None)] if source else []),
        *named,
    ]
    bar = tqdm(everyone, desc="report", disable=None if progress else True)
    for name, path, size in bar:
        bar.set_postfix_str(name)
        found.append(_measure(path, size, text, device=device, **options))
    first = found.pop(0) if source else None
    scored = zip(report.rows, found, strict=True)
    return replace(
        report,
        rows=[replace(row, scored=one, tokens_per_second=speed) for row, (one, speed) in scored],
        original=first and Original(*first),
        metrics=_metrics(report, text, source, device, progress) if metrics else None,
        environment=_environment(device),
    )


def _metrics(
    report: Report, text: str, source: Path | None, device: str, progress: bool
) -> MetricsCurve:
    """The three metrics at the budgets of the report."""
    budgets = [row.plan.budget_bytes for row in report.rows]
    return metrics_along_curve(
        report.container, text, budgets, original=source, max_bytes=METRIC_BYTES, device=device,
        progress=progress,
    )  # fmt: skip


def _measure(
    path: str | Path,
    budget: int | None,
    text: str,
    *,
    max_tokens: int | None,
    window: int | None,
    stride: int | None,
    device: str,
) -> tuple[Evaluation, float]:
    opened = open_model(path, budget=budget, device=device)
    tokens = token_ids(text, opened.tokenizer, max_tokens=max_tokens)
    scored = score(opened, tokens, model=Path(path).name, text=text, window=window, stride=stride)
    return scored, 1 / seconds_per_token(opened.model, tokens=SPEED_TOKENS)


def _rows(container: Path, manifest: Manifest, budgets: Sequence[str | int | Budget]) -> list[Row]:
    """One row a prefix of the order, fewest bytes first; budgets that buy the same are one."""
    named = [(str(b.text if isinstance(b, Budget) else b), b) for b in budgets]
    named = named or list(_default(manifest))
    plans = plan(container, [budget for _, budget in named])
    sizes = Report(str(container), manifest, []).sizes
    rows: dict[int, Row] = {}
    for (name, _), one in zip(named, plans, strict=True):
        blocks = sizes.index(one.resident_bytes)
        rows.setdefault(blocks, Row(name, one, blocks))
    return [rows[blocks] for blocks in sorted(rows)]


def _default(manifest: Manifest) -> Iterator[tuple[str, str | int]]:
    budgets = manifest.budgets
    levels = [1] * len(manifest.stacks), [entry.levels for entry in manifest.stacks]
    floor, top = (budgets.bits_per_weight(one) for one in levels)
    yield "floor", budgets.floor_bytes
    for budget in BUDGETS:
        if floor < float(budget.removesuffix("bpw")) < top:
            yield budget, budget
    yield "everything", budgets.total_bytes


def _original(container: Path, manifest: Manifest, named: str | Path | None) -> Path | None:
    """The original's folder. UserError where the one that was named is another model's."""
    if named is not None:
        source = open_source(named)
        if source.bytes != manifest.original_bytes:
            raise UserError(
                f"--original {named}: a model of {source.bytes} bytes, but {container} was made "
                f"from one of {manifest.original_bytes}; name the folder it was made from"
            )
        return source.path
    name = Path(manifest.base_model).name
    for folder in (Path(name), container.resolve().parent / name):
        if (
            folder.is_dir()
            and not is_container(folder)
            and _bytes(folder) == manifest.original_bytes
        ):
            return folder
    return None


def _bytes(folder: Path) -> int | None:
    try:
        return open_source(folder).bytes
    except UserError:
        return None


def _environment(device: str) -> dict[str, Any]:
    where = pick_device(device)
    packages = ("bitstack", "torch", "transformers")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if where == "cuda" else platform.machine(),
        "kernel": which(where).name,
        "threads": torch.get_num_threads(),
        "speed_tokens": SPEED_TOKENS,
        **{name: version(name) for name in packages},
    }
