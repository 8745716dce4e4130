"""`compress-model report` as it is typed: what its options reach.

The page itself is tested in `tests/metrics/report`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitstack.cli import app
from bitstack.metrics import report

NAME = "llama-gqa"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks for; nothing is measured."""
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(report, "collect", lambda folder, **options: arguments.update(options))
    monkeypatch.setattr(report, "write_report", lambda page, output: [output])
    return arguments


def test_options_reach_the_report(
    collected: dict[str, Any], stacked: Callable[..., Path], tmp_path: Path
) -> None:
    words = "--budget 2bpw --budget 50% --original owner/name --tasks blimp,piqa --stride 8"
    output = ["--output", str(tmp_path / "p.html")]
    command = ["report", str(stacked(NAME)), *words.split(), *output]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (0, f"wrote {tmp_path / 'p.html'}\n")
    assert collected["budgets"] == ["2bpw", "50%"]
    assert (collected["original"], collected["tasks"]) == ("owner/name", ["blimp", "piqa"])
    assert (collected["stride"], collected["max_tokens"]) == (8, 6000)
    assert collected["metrics"] is True
    CliRunner().invoke(app, [*command, "--no-metrics"])
    assert collected["metrics"] is False


def test_a_report_beside_its_original(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    page = tmp_path / "p.html"
    options = ["--text", text_file, "--max-tokens", 100, "--window", 32, "--budget", "100%"]
    words = [stacked(NAME), *options, "--original", pico_model(NAME), "--output", page, "--quiet"]
    result = CliRunner().invoke(app, ["report", *(str(word) for word in words)])
    assert (result.exit_code, result.stdout) == (0, "")
    record = json.loads(page.with_suffix(".json").read_text())
    assert record["original"]["scored"]["tokens"] == record["rows"][0]["scored"]["tokens"]


def test_a_comparison_as_json(
    stacked: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    twice, page = [str(stacked(NAME))] * 2, str(tmp_path / "p.html")
    options = "--max-tokens 100 --window 32 --budget 100% --no-metrics --json -"
    words = ["report", *twice, "--text", str(text_file), "--output", page, *options.split()]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert [one["container"] for one in record["reports"]] == twice
    assert record == json.loads((tmp_path / "p.json").read_text())
    cache = record["reports"][0]["memory"]["cache"]
    assert [entry["window"] for entry in cache] == [None]
    assert cache[0]["per_token"] > 0
