"""The script end to end on a pico model: every evaluator beside the forward passes it made."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import bench_evaluators as script
import pytest
import torch

import pico


def test_every_evaluator_is_timed(
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "bench.json"
    text.write_text(pico.TEXT * 20)
    words = ["--model", pico_model("llama-gqa"), "--text", text, "--bytes", 9000]
    words += ["--repeats", 1, "--clock", "cpu", "--json", output]
    monkeypatch.setattr(sys, "argv", ["bench_evaluators.py", *map(str, words)])
    script.main()
    results = {one["evaluator"]: one for one in json.loads(output.read_text())}
    assert len(results) == 5
    least = len(pico.tokenizer()(pico.TEXT * 17)["input_ids"])  # a text of at least 9,000 bytes
    for name, one in results.items():
        whole = name not in ("information capacity, faithful", "windowed loss")
        assert one["tokens"] >= (least if whole else 100), name
        assert 0 < one["ratio"] < 1.5, name
        quotient = one["tokens_per_second"] / one["bare_tokens_per_second"]
        assert one["ratio"] == pytest.approx(quotient)
    gap = results["capacity gap"]
    assert gap["passes"] % 2 == 0  # teacher and student


def test_what_is_recorded_is_run_again() -> None:
    model, ids = pico.build("llama-gqa"), torch.tensor([[1, 2, 3]])
    with script.recorded(model) as batches:
        model(input_ids=ids)
    model(input_ids=ids)
    assert len(batches) == 1
    with script.recorded(model) as again:
        script.bare(model, batches)
    assert torch.equal(again[0], ids)
