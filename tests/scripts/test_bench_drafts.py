"""The script end to end on a pico container."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import bench_drafts as script
import pytest


@pytest.fixture
def run(
    stacked: Callable[..., Path], text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    few = ["--prompts", "2", "--prompt-tokens", "9", "--tokens", "8"]

    def main(*words: str) -> None:
        folder = stacked("llama-gqa", calibration="none")
        monkeypatch.setattr(sys, "argv", ["bench", str(folder), str(text_file), *few, *words])
        script.main()

    return main


def test_rows_of_pairs(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    run("--budget", "everything", "--draft", "floor", "--draft", "everything", "--json", str(out))
    printed = capsys.readouterr()
    (row,) = json.loads(out.read_text())["rows"]  # a draft of everything would be the model
    assert (row["budget"], row["draft"]) == ("everything", "floor")
    assert 0 <= row["accepted"] <= 1
    assert 1 <= row["tokens_per_step"] <= 6
    assert row["ratio"] > 0
    assert "floor" in printed.out
    assert "is not below" in printed.out + printed.err


def test_a_text_that_is_too_short(run: Callable[..., None]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--prompts", "5000")
    assert ended.value.code == 2
