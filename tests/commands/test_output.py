"""What commands print for other programs: --json and --quiet, and what a shell completes.

Also covers `commands.demo`, `commands.export`, `commands.generate` and `commands.plan`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bitstack import demo
from bitstack.cli import app
from bitstack.commands.tables import cache_line
from bitstack.container.planning import plan

NAME = "llama-gqa"


def call(*args: object) -> Result:
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output
    return done


def test_generate(stacked: Callable[..., Path], tmp_path: Path) -> None:
    command = ["generate", stacked(NAME), "--budget", "3bpw", "--prompt", "The river"]
    command += ["--max-new-tokens", 5]
    printed = call(*command, "--json", "-")
    record = json.loads(printed.stdout)
    assert list(record) == [
        "model", "prompt", "continuation", "resident_bytes", "bits_per_weight",
    ]  # fmt: skip
    assert (record["model"], record["prompt"]) == (str(stacked(NAME)), "The river")
    assert 2 < record["bits_per_weight"] <= 3
    shown = call(*command, "--json", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == record
    assert shown.stdout.rstrip("\n") == "The river" + record["continuation"]
    assert call(*command, "--quiet").output == ""


def test_demo(
    pico_model: Callable[..., Path],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small: dict[str, Any] = {
        "model": pico_model(NAME), "calibration": text_file, "held_out": text_file,
        "max_tokens": 100, "window": 32, "blocks": 3, "num_samples": 4, "seq_len": 32,
        "order": "predicted", "tune_steps": 0, "joint_passes": 0, "search_sweeps": 0,
    }  # fmt: skip
    monkeypatch.setattr(demo, "run_demo", partial(demo.run_demo, **small))
    printed = call("demo", "--output", tmp_path / "out", "--json", "-", "--quiet")
    rows = json.loads(printed.stdout)["rows"]
    assert rows == json.loads((tmp_path / "out" / "demo.json").read_text())["rows"]
    assert (rows[0]["name"], rows[-1]["name"]) == ("original", "everything")
    for row in rows:
        assert list(row) == ["name", "scored", "tokens_per_second", "continuation"]
        assert row["scored"]["tokens"] == rows[0]["scored"]["tokens"]


def test_a_quiet_plan_is_its_file(stacked: Callable[..., Path], tmp_path: Path) -> None:
    command = ["plan", stacked(NAME), "--budget", "50%"]
    printed = call(*command, "--quiet", "--json", tmp_path / "plan.json")
    assert printed.output == ""
    assert json.loads((tmp_path / "plan.json").read_text()) == json.loads(
        call(*command, "--quiet", "--json", "-").stdout
    )


def test_a_plan_says_where_it_counts_no_cache(stacked: Callable[..., Path]) -> None:
    row = plan(stacked(NAME))[0]
    assert cache_line(row) is None
    assert "KV cache: not counted" in str(cache_line(replace(row, context=None)))


def test_export(stacked: Callable[..., Path], tmp_path: Path) -> None:
    output = tmp_path / "dense"
    command = ["export", stacked(NAME), "--budget", "3bpw", "--output", output]
    record = json.loads(call(*command, "--json", "-").stdout)
    size = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    assert record == {"folder": str(output), "budget": "3bpw", "level": None, "dense_bytes": size}


COMPLETED = """
import sys
from bitstack.cli import main
try: main()
finally: print([m for m in ("torch", "transformers") if m in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("compress-model ge", ["generate"]),
        ("compress-model plan x --qu", ["--quiet"]),
        ("compress-model run x --shard", ["--shard-size"]),  # a field of the recipe
    ],
)
def test_a_shell_completes_without_torch(words: str, expected: list[str]) -> None:
    completion = {
        "_COMPRESS_MODEL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPLETED],
        capture_output=True, text=True, timeout=60, env=os.environ | completion,
    )  # fmt: skip
    assert done.stdout.split() == expected
    assert done.stderr == "[]\n"


def test_the_script_for_a_shell() -> None:
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETED, "--show-completion", "bash"],
        capture_output=True, text=True, timeout=60, env=os.environ | named,
    )  # fmt: skip
    assert "complete -o default -F _compress_model_completion compress-model" in done.stdout
    assert done.stderr == "[]\n"
