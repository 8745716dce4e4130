"""Task scores of rows whose tasks were not run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from choices import write_piqa

from bitstack import UserError
from bitstack.metrics.report import Report, collect
from bitstack.metrics.report.render import html, markdown
from bitstack.metrics.tasks.predicted import ORIGINAL, Size, fill_in

BUDGETS = ["floor", "2bpw", "everything"]


@pytest.fixture(scope="module")
def options(
    pico_model: Callable[..., Path], documents_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = write_piqa(tmp_path_factory.mktemp("piqa"))
    return {
        "text": str(documents_file), "original": pico_model("llama-gqa"), "window": 32,
        "max_tokens": 200, "tasks": ["piqa"], "tasks_folder": folder, "limit": 12,
        "budgets": BUDGETS,
    }  # fmt: skip


@pytest.fixture(scope="module")
def report(stacked: Callable[..., Path], options: dict[str, Any]) -> Report:
    return collect(stacked("llama-gqa", blocks=4), **options, tasks_budgets=["floor"])


def test_scores_between_measured_ones_are_predicted(report: Report) -> None:
    floor, middle, top = report.rows
    assert floor.tasks
    assert not floor.predicted
    assert report.original is not None
    assert report.metrics is not None
    kl = [point.gap.kl for point in report.metrics.points if point.gap is not None]
    budgets = [(row.plan.budget_bytes, row.plan.resident_bytes) for row in report.rows]
    sizes = [
        Size(ORIGINAL, None, report.manifest.original_bytes, 0.0, report.original.tasks),
        Size("floor", *budgets[0], kl[0], floor.tasks),
        Size("2bpw", *budgets[1], kl[1]),
        Size("everything", *budgets[2], kl[2]),
    ]
    wanted = {size.budget: tuple(scores) for size, scores in fill_in(sizes)}
    for row in (middle, top):
        assert not row.tasks
        assert row.predicted == wanted[row.name]
        assert {(one.task, one.metric) for one in row.predicted} == {
            ("piqa", "acc"), ("piqa", "acc_norm"),
        }  # fmt: skip


def test_predicted_scores_are_marked_in_every_file(report: Report) -> None:
    acc = report.rows[1].predicted[0]
    assert acc.interval is not None
    words = f"≈ {acc.value:.4f} ({acc.interval.low:.4f} to {acc.interval.high:.4f})"
    for page in (html(report), markdown(report)):
        assert words in page
        assert "predicted from the KL divergence" in page
    rows = report.to_json()["rows"]
    assert [len(row["predicted"]) for row in rows] == [0, 2, 2]
    json.dumps(rows)


def test_all_budgets_run_the_tasks_otherwise(
    stacked: Callable[..., Path], options: dict[str, Any]
) -> None:
    every = collect(stacked("llama-gqa", blocks=4), **options | {"max_tokens": 64})
    assert all(row.tasks and not row.predicted for row in every.rows)
    assert "predicted from the KL divergence" not in html(every)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"tasks_budgets": ["3bpw"]}, "--tasks-budget 3bpw: is not among.*floor, 2bpw, everything"),
     ({"text": None}, "which needs --tasks, --text"), ({"tasks": None}, "which needs --tasks"),
     ({"metrics": False}, "no --no-metrics")],
)  # fmt: skip
def test_what_cannot_be_predicted_is_refused(
    stacked: Callable[..., Path], options: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    given = options | {"tasks_budgets": ["floor"]} | change
    with pytest.raises(UserError, match=words):
        collect(stacked("llama-gqa", blocks=4), **given)
