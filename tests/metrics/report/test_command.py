"""The command `report`: what it writes, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitstack.cli import app


def test_report_without_text(stacked: Callable[..., Path], tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    command = ["report", str(stacked("gpt-2")), "--output", str(page), "--budget", "100%"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"wrote {page.with_suffix(s)}" for s in (".html", ".md", ".json")
    ]
    (row,) = json.loads(page.with_suffix(".json").read_text())["rows"]
    assert (row["name"], row["scored"]) == ("100%", None)


def test_report_of_tasks(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], tasks_folder: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    page = tmp_path / "r.html"
    command = ["report", str(stacked("gpt-2")), "--output", str(page), "--budget", "100%"]
    command += ["--tasks", "boats, lambada", "--tasks-folder", str(tasks_folder), "--limit", "6"]
    result = CliRunner().invoke(app, [*command, "--original", str(pico_model("gpt-2"))])
    assert result.exit_code == 0, result.output
    record = json.loads(page.with_suffix(".json").read_text())
    assert (record["tasks"]["names"], record["tasks"]["limit"]) == (["boats", "lambada"], 6)
    (row,) = record["rows"]
    assert {(s["task"], s["documents"]) for s in row["tasks"]} == {("boats", 6), ("lambada", 6)}
    assert row["tasks"][0]["original"] == record["original"]["tasks"][0]["value"]
    for file in (page, page.with_suffix(".md")):
        assert "on the first 6 documents" in " ".join(file.read_text().split())
    assert row["scored"] is record["original"]["scored"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "r.pdf"], "must end in .html"),
        (["--output", "r.html", "--text", "none.txt"], "none.txt"),
        (["--output", "r.html", "--original", "none"], "none"),
        (["--output", "r.html", "--tasks", "mmlu"], "--tasks: mmlu; known are"),
        (
            ["--output", "r.html", "--tasks", "blimp", "--limit", "0"],
            "'0' is no whole number above 0",
        ),
        (["--output", "r.html", "--budget", "1B"], "below the floor"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    stacked: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", str(stacked("gpt-2")), "--quiet", *options])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert list(tmp_path.iterdir()) == []
