"""The figures of a report are those of the commands `plan` and `eval`.

Also covers `metrics.report.data` and `metrics.report.measure`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.container.manifest import read_manifest
from bitstack.container.planning import plan
from bitstack.errors import UserError
from bitstack.live.loading import load
from bitstack.metrics.loss.evaluation import evaluate
from bitstack.metrics.report import Report, collect, measure
from bitstack.metrics.tasks.evaluation import evaluate_tasks

SHORT = {"window": 32, "max_tokens": 300}


def test_figures_are_those_of_plan_and_eval(
    report: Report, pico_model: Callable[..., Path], documents_file: Path
) -> None:
    names = [row.name for row in report.rows]
    assert (names[0], names[-1]) == ("floor", "everything")
    assert [row.plan.resident_bytes for row in report.rows] == sorted(
        {row.plan.resident_bytes for row in report.rows}
    )
    for row in (report.rows[0], report.rows[2], report.rows[-1]):
        (again,) = plan(report.container, row.plan.budget_bytes)
        assert again.resident_bytes == row.plan.resident_bytes == report.sizes[row.blocks]
        model = load(report.container, row.plan.budget_bytes)
        assert model.bitstack.resident_bytes == row.plan.resident_bytes
        alone = evaluate(
            report.container, str(documents_file), budget=row.plan.budget_bytes, **SHORT
        )
        assert row.scored is not None
        assert row.scored.nll_per_token == pytest.approx(alone.nll_per_token)
    assert report.original is not None
    assert report.original.scored is not None
    alone = evaluate(pico_model("llama-gqa"), str(documents_file), **SHORT)
    assert report.original.scored.nll_per_token == pytest.approx(alone.nll_per_token)


def test_the_metrics_stand_at_the_same_budgets(report: Report) -> None:
    assert report.metrics is not None
    assert [point.resident_bytes for point in report.metrics.points] == [
        report.manifest.original_bytes, *(row.plan.resident_bytes for row in report.rows),
    ]  # fmt: skip
    last = report.metrics.points[-1]
    assert last.gap is not None
    assert last.gap.intervals["kl"] is not None
    assert "tokenizer" in last.undefined["density"]


def test_task_scores_are_those_of_eval(
    report: Report, pico_model: Callable[..., Path], tasks_folder: Path
) -> None:
    assert report.tasks is not None
    row = report.rows[1]
    alone = evaluate_tasks(
        report.container, report.tasks.names, tasks_folder, budget=row.plan.budget_bytes,
        original=pico_model("llama-gqa"),
    )  # fmt: skip
    assert list(row.tasks) == alone.tasks
    assert report.original is not None
    assert [one.value for one in report.original.tasks] == [one.original for one in alone.tasks]


def test_tasks_without_text_measure_nothing_else(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], tasks_folder: Path
) -> None:
    options = {"tasks": ["boats"], "tasks_folder": tasks_folder, "limit": 5, "budgets": ["100%"]}
    whole = collect(stacked("gpt-2"), original=pico_model("gpt-2"), **options)
    assert whole.original is not None
    for one in (whole.original, *whole.rows):
        assert (one.scored, one.tokens_per_second) == (None, None)
        assert [(score.task, score.documents) for score in one.tasks] == [("boats", 5)]
    assert whole.metrics is None
    assert "lm_eval" in whole.environment
    assert "speed_tokens" not in whole.environment
    alone = collect(stacked("gpt-2"), **options)
    assert alone.original is None
    (score,) = alone.rows[0].tasks
    assert (score.value, score.recovery) == (whole.rows[0].tasks[0].value, None)


def test_steps_are_the_order(report: Report) -> None:
    budgets = report.manifest.budgets
    steps = report.steps()
    assert len(steps) == len(report.manifest.order)
    for step in steps[:: max(1, len(steps) // 7)]:
        levels, size = budgets.levels(step["resident_bytes"])
        assert size == step["resident_bytes"]
        index = [entry.name for entry in report.manifest.stacks].index(step["stack"])
        assert levels[index] == step["level"]


def test_dense_tensors_are_grouped_and_none_is_lost(report: Report) -> None:
    assert sum(group.bytes for group in report.dense) == report.manifest.fixed_bytes
    assert sum(group.count for group in report.dense) == len(report.manifest.dense)
    assert any(group.name.startswith("model.layers.*.") for group in report.dense)


def test_without_text_no_model_is_loaded(
    stacked: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "open_model", lambda *args, **kwargs: pytest.fail("loaded"))
    whole = collect(stacked("gpt-2"), budgets=["100%", "99%"])
    assert [(row.name, row.scored) for row in whole.rows] == [("100%", None)]
    assert whole.original is None
    assert whole.metrics is None


def test_the_original_is_looked_for_beside_the_container(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(stacked("gpt-2"), tmp_path / "c")
    options = {"text": str(text_file), "budgets": ["100%"], "metrics": False, **SHORT}
    assert collect(tmp_path / "c", **options).original is None
    name = read_manifest(tmp_path / "c").base_model
    shutil.copytree(pico_model("llama-gqa"), tmp_path / name)  # of that name, but another model
    assert collect(tmp_path / "c", **options).original is None
    shutil.rmtree(tmp_path / name)
    shutil.copytree(pico_model("gpt-2"), tmp_path / name)
    whole = collect(tmp_path / "c", **options)
    assert whole.original is not None
    assert whole.original.scored is not None
    assert whole.original.scored.resident_bytes == whole.manifest.original_bytes


def test_another_models_folder_is_refused(
    stacked: Callable[..., Path], pico_model: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=r"--original .*: a model of \d+ bytes, but .* was made"):
        collect(stacked("gpt-2"), original=pico_model("llama-gqa"))
