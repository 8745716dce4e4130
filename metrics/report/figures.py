"""The figures of a report: which models are measured at which budgets, and what is made of it.

Measuring one of them is in `measure`. Nothing is written here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bitstack.container.budget import Budget
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.planning import plan
from bitstack.errors import UserError
from bitstack.live.opening import is_container
from bitstack.machine.device import pick_device
from bitstack.metrics.report.along_curve import metrics_along_curve
from bitstack.metrics.report.data import Measured, Report, Row, Tasks
from bitstack.metrics.report.measure import Model, Terms, environment, measure_all
from bitstack.metrics.tasks.scores import with_recovery
from bitstack.original.hub_cache import locate
from bitstack.original.source import open_source

# Between the floor and everything: quality changes most below 3 bits a weight.
BUDGETS = ("1.5bpw", "2bpw", "2.5bpw", "3bpw", "4bpw", "6bpw")
MAX_TOKENS = 20_000
METRIC_BYTES = 50_000


def collect(
    folder: str | Path,
    *,
    text: str | None = None,
    budgets: Sequence[str | int | Budget] = (),
    original: str | Path | None = None,
    max_tokens: int | None = MAX_TOKENS,
    window: int | None = None,
    stride: int | None = None,
    tasks: Sequence[str] | None = None,
    tasks_folder: str | Path | None = None,
    limit: int | None = None,
    metrics: bool = True,
    device: str = "auto",
    progress: bool = False,
) -> Report:
    """The report of the container `folder`: loss and speed on the source `text`, scores on `tasks`.

    Without `budgets`: the floor, everything, and BUDGETS between. `original` is the folder it was
    made from; without it, a folder of that name and size in the working directory or beside the
    container. `metrics` adds information capacity, capacity density and capacity gap, on the first
    METRIC_BYTES of the text. `tasks` are names of tasks or groups, run on their first `limit`
    documents; `tasks_folder` is as `run_tasks` has it. Without `text` and `tasks` no model is
    loaded. UserError for what `plan`, `open_model`, `token_ids`, `score` and `run_tasks` refuse,
    and for an original of another size.
    """
    container = locate(folder).folder
    manifest = read_manifest(container)
    pick_device(device)
    source = _original(container, manifest, original)
    report = Report(str(folder), manifest, _rows(container, manifest, budgets))
    if text is None and tasks is None:
        return report
    where = None if tasks_folder is None else str(tasks_folder)
    chosen = None if tasks is None else Tasks(tuple(tasks), where, limit)
    terms = Terms(text, chosen, max_tokens, window, stride, device, progress)
    measured = _measured(report, source, terms)
    return measured if text is None or not metrics else _with_metrics(measured, source, terms)


def _measured(report: Report, source: Path | None, terms: Terms) -> Report:
    """The report with loss, speed and scores of its rows and of the original in `source`."""
    models: list[Model] = [("original", source, None)] if source else []
    models += [(row.name, report.container, row.plan.budget_bytes) for row in report.rows]
    found = measure_all(models, terms)
    first = found.pop(0) if source else None
    pairs = zip(report.rows, found, strict=True)
    return replace(
        report,
        rows=[replace(row, **vars(_beside(one, first, terms.tasks))) for row, one in pairs],
        original=first,
        tasks=terms.tasks,
        environment=environment(terms),
    )


def _beside(one: Measured, original: Measured | None, tasks: Tasks | None) -> Measured:
    """`one` with the original's task scores beside its own."""
    if original is None or tasks is None:
        return one
    return replace(one, tasks=tuple(with_recovery(one.tasks, original.tasks, seed=tasks.seed)))


def _with_metrics(report: Report, source: Path | None, terms: Terms) -> Report:
    """The report with the three metrics at its budgets."""
    assert terms.text is not None
    budgets = [row.plan.budget_bytes for row in report.rows]
    curve = metrics_along_curve(
        report.container, terms.text, budgets, original=source, max_bytes=METRIC_BYTES,
        device=terms.device, progress=terms.progress,
    )  # fmt: skip
    return replace(report, metrics=curve)


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
