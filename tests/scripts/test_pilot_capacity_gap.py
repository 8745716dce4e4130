"""The script end to end on pico models: a table comes out, and a second run repeats nothing."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from capacity_gap_pilot.pruning import body_parameters

import pico

SCRIPT = Path(__file__).parents[2] / "scripts" / "pilot_capacity_gap.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pilot_capacity_gap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def test_a_table_of_pico_models(
    pico_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(pico.TEXT * 20)
    names = ["mistral", "llama-tied"]
    size = body_parameters(pico.build(names[0])) // 2
    work, output = tmp_path / "work.jsonl", tmp_path / "pilot.json"
    words = ["--teachers", *(pico_model(name) for name in names), "--train", text, "--valid", text]
    words += ["--students", size, 10**9, "--tokens", 512, "--window", 16, "--passages", 8]
    words += ["--note", "few words of why", "--seeds", 1, "--work", work, "--output", output]
    monkeypatch.setattr(sys, "argv", ["pilot_capacity_gap.py", *map(str, words)])
    script.main()
    runs = [json.loads(line) for line in work.read_text().splitlines()]
    assert [run["teacher"] for run in runs] == names  # no teacher is large enough for 10**9
    assert all(len(run["losses"]) == 8 for run in runs)
    assert all(sum(run["losses"]) / 8 < run["pruned_loss"] for run in runs)
    summary = json.loads(output.read_text())
    assert [len(part["teachers"]) for part in summary["students"]] == [2]
    assert summary["interior_optimum"] is False
    assert "No interior optimum shows in 1 rows" in output.with_suffix(".md").read_text()
    assert "few words of why" in output.with_suffix(".md").read_text()
    script.main()
    assert len(work.read_text().splitlines()) == 2
