"""The comparison of calibration texts: every text at every level; a second run makes nothing."""

import gzip
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pico
from bitstack import recipes

RECIPE = (
    "blocks: 4\nchains: [4]\nsearch_sweeps: 0\njoint_passes: 0\ntune_steps: 0\norder: predicted\n"
)
SETTINGS = ["--tokens", "64", "--eval-tokens", "100", "--window", "32"]


@pytest.fixture
def script() -> Callable[[str], Any]:
    """`script(name)` imports a module of scripts/."""
    return importlib.import_module


@pytest.fixture
def command(
    pico_model: Callable[..., Path], text_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:  # fmt: skip
    """A command with a file beside the other texts; a short text stands for the shipped one."""
    short, other = tmp_path / "general.txt.gz", tmp_path / "other.txt"
    recipe = tmp_path / "few.yaml"
    recipe.write_text(RECIPE)
    short.write_bytes(gzip.compress(pico.TEXT.encode()))
    other.write_text(pico.TEXT * 2)
    monkeypatch.setattr(recipes, "general_text", lambda: short)
    return [
        "bench_calibration_text.py", str(pico_model("llama-tied")), str(other),
        "--text", str(text_file), *SETTINGS, "--recipe", str(recipe),
        "--work", str(tmp_path / "work"), "--json", "-",
    ]  # fmt: skip


def test_every_text_at_every_level_and_nothing_twice(
    script: Callable[[str], Any], command: list[str],
    monkeypatch: pytest.MonkeyPatch, capsys: Any,
) -> None:  # fmt: skip
    module = script("bench_calibration_text")
    monkeypatch.setattr(sys, "argv", command)
    module.main()
    first = json.loads(capsys.readouterr().out)
    texts = ["none", "general", "own samples", "other.txt"]
    assert [(row["calibration"], row["level"]) for row in first["rows"]] == [
        (name, level) for name in texts for level in (2, 3, 4)
    ]
    for low, _, high in zip(*[iter(first["rows"])] * 3, strict=True):
        assert low["kl_per_token"] > high["kl_per_token"] > 0
        assert high["increase"] == high["nll_per_token"] - first["original"]
    monkeypatch.setattr(script("peers.containers"), "compress", None)  # nothing is made again
    monkeypatch.setattr(script("own_samples"), "_sample", None)
    monkeypatch.setattr(sys, "argv", command[:-2])
    module.main()
    shown = capsys.readouterr().out
    assert all(shown.count(f"\n {name} ") == 3 for name in texts)
    assert "original: loss" in shown


def test_a_text_of_the_same_name_is_refused(
    script: Callable[[str], Any], command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    again = [*command, command[2]]
    monkeypatch.setattr(sys, "argv", again)
    monkeypatch.setattr(script("own_samples"), "_sample", lambda *given: ["A text."])
    with pytest.raises(SystemExit, match="2"):
        script("bench_calibration_text").main()
    assert "a text of this name is compared already" in capsys.readouterr().err


def test_samples_are_enough_and_repeat(
    script: Callable[[str], Any], pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    bench = script("peers.bench").Bench(
        pico_model("llama-tied"), text_file, text_file, tmp_path,
        tokens=50, window=32, samples=1, length=32,
    )  # fmt: skip
    write = script("own_samples").write_samples
    file = write(bench, 200, seed=0)
    first = file.read_text()
    texts = [json.loads(line)["text"] for line in first.splitlines()]
    assert sum(len(pico.tokenizer()(text)["input_ids"]) for text in texts) >= 200
    assert len(set(texts)) > 1
    file.unlink()
    assert write(bench, 200, seed=0).read_text() == first
    assert write(bench, 200, seed=1).read_text() != first
