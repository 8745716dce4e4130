"""`compress-model metric scores`: what it says first, its table, and its record.

Also covers `commands.score_lines`.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import command_line
import pytest
from choices import write_piqa

NAME = "llama-gqa"
call = partial(command_line.call, "metric", "scores")
fails = partial(command_line.fails, "metric", "scores")


@pytest.fixture
def words(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> list[object]:
    """The arguments that every call needs."""
    return [
        stacked(NAME), "--original", pico_model(NAME), "--text", text_file, "--tasks", "piqa",
        "--tasks-folder", write_piqa(tmp_path),
    ]  # fmt: skip


def test_the_predicted_score_comes_first_in_words(words: list[object], tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    done = call(*words, "--budget", "3bpw", "--measure", "floor", "--json", file)
    assert done.exit_code == 0, done.output
    sizes = {row["budget"]: row for row in json.loads(file.read_text())["sizes"]}
    one = sizes["3bpw"]["scores"][0]
    first = done.stdout.splitlines()[0]
    for part in (
        f"{one['value']:.1%}", f"{one['recovery']:.1%}", "3bpw", "piqa", "predicted",
        "of the original's", "higher is better",
    ):  # fmt: skip
        assert part in first
    assert "Unsure" not in done.stdout
    for size in sizes:
        assert f"  {size} " in done.stdout


def test_a_prediction_beyond_the_measured_sizes_says_so(words: list[object]) -> None:
    done = call(*words, "--budget", "floor", "--measure", "3bpw")
    assert "Unsure" in done.stdout.splitlines()[0]
    assert "--measure" in done.stdout.splitlines()[0]


def test_refused(words: list[object]) -> None:
    assert "--original is missing" in fails(*words[:1], *words[3:])
    assert "known are" in fails(*words, "--budget", "3bpw", "--tasks", "mmlu")
