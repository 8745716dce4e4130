"""`compress-model push` as it is typed: budgets in either way, and the original beside them.

What is uploaded is tested in `tests/hub`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bitstack.cli import app

NAME = "llama-gqa"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def container(run: Callable[..., Path], pico_model: Callable[..., Path]) -> Path:
    quick: dict[str, Any] = {"search_sweeps": 0, "joint_passes": 0, "tune_steps": 0, "blocks": 4}
    few = {"num_samples": 4, "seq_len": 32, "order": "predicted"}
    return run(pico_model(NAME), **quick, **few)


def push(*args: object) -> Result:
    words = [str(arg) for arg in args]
    return CliRunner().invoke(app, ["push", *words, "--dry-run", "--license", "mit"])


def rows(*args: object) -> list[dict[str, Any]]:
    result = push(*args, "--json", "-", "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["rows"]


def test_budgets_are_repeated_or_listed(container: Path) -> None:
    named = [container, "owner/name"]
    repeated = rows(*named, "--budget", "2.5bpw", "--budget", "100%")
    assert [row["planned"]["budget"] for row in repeated] == ["2.5bpw", "100%"]
    assert rows(*named, "--budgets", "2.5bpw, 100%") == repeated
    assert rows(*named, "--budget", "2.5bpw", "--budgets", "100%") == repeated
    assert len(rows(*named)) > 2  # a few from the floor to everything


def test_the_original_is_measured_beside(
    container: Path, pico_model: Callable[..., Path], text_file: Path
) -> None:
    options = ["--text", text_file, "--window", 32, "--max-tokens", 100, "--budget", "100%"]
    (row,) = rows(container, "owner/name", *options, "--original", pico_model(NAME))
    assert row["scored"]["window"] == 32
    assert row["recovery"] > 0
    result = push(container, "owner/name", "--original", pico_model(NAME))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.endswith("is measured on a text; name one with --text")
