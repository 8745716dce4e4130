"""`compress-model eval` with tasks: scores alone, with a text, and beside the original's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import pico
from bitstack.cli import app
from bitstack.live.opening import open_model
from bitstack.metrics.tasks.runner import run_tasks

NAME = "llama-gqa"


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["eval", *(str(arg) for arg in args)])


def result(*args: object) -> Any:
    done = call(*args, "--json", "-")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    words = pico.TEXT.split()
    rows = [{"text": " ".join(words[i : i + 6])} for i in range(0, 48, 6)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "lambada_test.jsonl").write_text(text)
    return folder


def test_scores_of_a_model(pico_model: Callable[..., Path], data: Path) -> None:
    model = pico_model(NAME)
    record = result(model, "--tasks", "lambada", "--tasks-folder", data, "--limit", 5)
    scores = run_tasks(open_model(model), ["lambada"], data, limit=5)
    assert [one["value"] for one in record["tasks"]] == [one.value for one in scores]
    assert record["resident_bytes"] == record["original_bytes"]
    assert "perplexity" not in record
    done = call(model, "--tasks", "lambada", "--tasks-folder", data)
    assert "± SE" in done.stdout
    assert "recovery" not in done.stdout


def test_text_and_tasks_of_a_container_beside_the_original(
    pico_model: Callable[..., Path], stacked: Callable[..., Path], data: Path, text_file: Path
) -> None:
    arguments = [
        stacked(NAME), "--budget", "100%", "--text", text_file, "--tasks", "lambada",
        "--tasks-folder", data, "--original", pico_model(NAME),
    ]  # fmt: skip
    record = result(*arguments)
    assert record["perplexity"] > 1
    assert record["tasks"][0]["original"] > 1
    assert record["resident_bytes"] < record["original_bytes"]
    assert "recovery" in call(*arguments).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --text FILE, --tasks NAME,NAME or both"),
        (["--tasks", "mmlu"], "--tasks: mmlu; known are"),
        (["--tasks", "lambada"], "name the folder of it with --tasks-folder"),
        (["--tasks", ","], "none named"),
    ],
)
def test_one_line_for_bad_input(
    pico_model: Callable[..., Path], options: list[str], message: str
) -> None:
    done = call(pico_model(NAME), *options)
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert message in line
