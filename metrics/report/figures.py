"""Collects the figures of a report: the container at every budget, and its original.

Does not measure a model, see `metrics.report.measure`; does not write the page, see
`metrics.report.render`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bitstack.container.budget import EVERYTHING, FLOOR, Budget
from bitstack.container.making import read_making
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.planning import limits, plan
from bitstack.container.recognition import is_container
from bitstack.errors import UserError
from bitstack.machine.device import pick_device
from bitstack.machine.extras import require
from bitstack.metrics.report.along_curve import ORIGINAL
from bitstack.metrics.report.data import Measured, Memory, Report, Row, Tasks
from bitstack.metrics.report.measure import Measuring, Model, Settings, environment
from bitstack.metrics.report.predicted import with_predicted
from bitstack.metrics.tasks.scores import with_recovery
from bitstack.original.hub_cache import locate
from bitstack.original.source import open_source

# Closer together where quality changes most, below 3 bits per weight.
BUDGETS = ("1.5bpw", "2bpw", "2.5bpw", "3bpw", "4bpw", "6bpw")
MAX_TOKENS = 6000  # of the text


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
    tasks_budgets: Sequence[str] = (),
    metrics: bool = True,
    device: str = "auto",
    progress: bool = False,
) -> Report:
    """Collects the report of a container. Without `text` and `tasks` no model is loaded.

    Args:
        folder: Of the container, or its name on the Hub.
        text: Source of the text that loss, speed and metrics are measured on.
        budgets: Those to measure; none takes the floor, everything, and BUDGETS between.
        original: Folder of the model it was made from; None looks for a folder of that name and
            size in the working directory and beside the container.
        max_tokens: Of the text, for loss and metrics alike; None reads all.
        window: Tokens of a window, as in `metrics.loss.evaluation`.
        stride: Tokens between the starts of two windows.
        tasks: Names of benchmark tasks or of groups of them.
        tasks_folder: Of the tasks' data, or of task files.
        limit: Documents of every task; None takes all.
        tasks_budgets: Names among `budgets` that run the tasks; the scores of the others are
            predicted from them, which needs `text`, `metrics` and the original. None: all run them.
        metrics: Whether to measure information capacity, capacity density and capacity gap on the
            text.

    Raises:
        UserError: a budget, model, text or task cannot be used, or the original has another size.
    """
    if tasks is not None:
        require("lm_eval")  # refuses before hours of measuring
    container = locate(folder).folder
    manifest = read_manifest(container)
    pick_device(device)
    source = _original(container, manifest, original)
    report = Report(
        str(folder), manifest, _rows(container, manifest, budgets),
        memory=Memory(*limits(container, manifest)), making=read_making(container),
    )  # fmt: skip
    if text is None and tasks is None:
        return report
    where = None if tasks_folder is None else str(tasks_folder)
    few = tuple(tasks_budgets)
    chosen = None if tasks is None else Tasks(tuple(tasks), where, limit, budgets=few)
    if few:
        _check_prediction(few, report, whole=bool(text and metrics and source and tasks))
    settings = Settings(text, chosen, metrics, max_tokens, window, stride, device, progress)
    return _measured(report, source, settings)


def _measured(report: Report, source: Path | None, settings: Settings) -> Report:
    """Adds what is measured of the rows and of the original in `source`."""
    models: list[Model] = [(ORIGINAL, source, None)] if source else []
    models += [(row.name, report.container, row.plan.budget_bytes) for row in report.rows]
    measuring = Measuring(settings, models)
    measured = measuring.run()
    original = measured.pop(0) if source else None
    pairs = zip(report.rows, measured, strict=True)
    done = replace(
        report,
        rows=[replace(row, **vars(_beside(one, original, settings.tasks))) for row, one in pairs],
        original=original,
        metrics=measuring.curve(),
        tasks=settings.tasks,
        environment=environment(settings),
    )
    return with_predicted(done)


def _check_prediction(few: Sequence[str], report: Report, *, whole: bool) -> None:
    """Refuses what scores cannot be predicted from, before anything is measured."""
    if not whole:
        raise UserError(
            "--tasks-budget: the scores of other budgets are predicted from the KL divergence, "
            "which needs --tasks, --text, --original and no --no-metrics; add what is missing"
        )
    names = [row.name for row in report.rows]
    for name in few:
        if name not in names:
            raise UserError(
                f"--tasks-budget {name}: is not among the budgets of the report, which are "
                f"{', '.join(names)}; write one of them, or add it as --budget {name}"
            )


def _beside(one: Measured, original: Measured | None, tasks: Tasks | None) -> Measured:
    """Adds to the task scores of `one` the share of the original's scores that they keep."""
    if original is None or tasks is None:
        return one
    return replace(one, tasks=tuple(with_recovery(one.tasks, original.tasks, seed=tasks.seed)))


def _rows(container: Path, manifest: Manifest, budgets: Sequence[str | int | Budget]) -> list[Row]:
    """Returns one row per budget, fewest bytes first; budgets that fit the same model are one."""
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
    yield FLOOR, budgets.floor_bytes
    for budget in BUDGETS:
        if floor < float(budget.removesuffix("bpw")) < top:
            yield budget, budget
    yield EVERYTHING, budgets.total_bytes


def _original(container: Path, manifest: Manifest, named: str | Path | None) -> Path | None:
    """Returns the original's folder. Raises UserError where `named` holds another model."""
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
