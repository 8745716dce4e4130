"""lm-eval's own command opens containers, and prints the scores of `compress-model eval`."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import call

from bitstack import recipes

TASKS = "blimp,lambada,piqa"


def lm_eval(arguments: str, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs the command of lm-eval, which imports no bitstack."""
    words = ["run", "--model", "hf", "--model_args", arguments, "--tasks", TASKS, *more]
    words += ["--include_path", str(recipes.tasks()), "--metadata", json.dumps({"data": str(data)})]
    return subprocess.run(
        [sys.executable, "-m", "lm_eval", *words, "--device", "cpu"],
        capture_output=True, text=True, timeout=300, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def printed(table: str) -> dict[tuple[str, str], float]:
    """The scores of lm-eval's table by task and metric."""
    scores, task = {}, ""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 8 and re.fullmatch(r"[\d.]+", cells[7]):
            task = cells[1] or task
            scores[task, cells[5]] = float(cells[7])
    return scores


@pytest.mark.parametrize(
    ("dtype", "more", "options", "rounding"),
    [
        # One short sequence at a time is multiplied by other kernels than a batch of them.
        (torch.float32, "", (), 1e-2),
        (torch.bfloat16, ",softmax_dtype=float32", ("--batch_size", "16"), 1e-4),
    ],
    ids=["as it is", "with the precision and the batches of eval"],
)
def test_the_scores_of_eval(
    stacked: Callable[..., Path], data: Path, tmp_path: Path,
    dtype: torch.dtype, more: str, options: tuple[str, ...], rounding: float,
) -> None:  # fmt: skip
    container = stacked("llama-gqa", dtype=dtype, calibration="none")
    words = ["--tasks", TASKS, "--tasks-folder", data, "--budget", "4bpw"]
    done = call("eval", container, *words, "--json", tmp_path / "scores.json")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "scores.json").read_text())["tasks"]
    expected = {(row["task"], row["metric"]): row["value"] for row in rows}
    arguments = f"pretrained={container},variant=bitstack,bitstack_budget=4bpw{more}"
    theirs = lm_eval(arguments, data, *options)
    assert theirs.returncode == 0, theirs.stderr
    scores = printed(theirs.stdout)
    assert scores.keys() == expected.keys()
    for key, value in scores.items():
        assert value == pytest.approx(expected[key], abs=1e-4, rel=rounding), key
    assert "UNEXPECTED" not in theirs.stderr
