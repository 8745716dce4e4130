"""The benchmark on a small shape: what it compares is equal, and its figures are of what it ran."""

import argparse
import json
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench_runtime as bench
import pytest
import torch
from transformers import LlamaConfig

from bitstack import kernels, load

OPTIONS = argparse.Namespace(
    rows=96, columns=520, megabytes=1, rounds=2, tokens=3, prompt=40, json=None
)
KEYS = (
    "gemv_speedup_vs_bf16", "bandwidth_fraction", "decode_speedup_3bpw", "decode_speedup_2bpw",
    "prefill_ratio", "kernel", "vs_llama_cpp",
)  # fmt: skip


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=352, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def test_the_dense_twin_computes_the_same(tmp_path: Path) -> None:
    model = load(bench.random_container(tmp_path / "c", config(), planes=3))
    twin = bench.dense_twin(model)
    assert not any("bitstack" in type(m).__module__ for m in twin.modules())
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    bench.check_twin(model, twin)
    with torch.no_grad():
        twin.model.layers[1].mlp.up_proj.weight.mul_(2)
    with pytest.raises(AssertionError, match="computes something else"):
        bench.check_twin(model, twin)


def test_every_figure_comes_from_what_was_timed(capsys: pytest.CaptureFixture[str]) -> None:
    result, lines, bandwidth = bench.measure(config(), OPTIONS)
    gemv, three, two, prefill, *others = lines
    assert tuple(asdict(result)) == KEYS
    assert result.kernel == kernels.which().name
    assert result.gemv_speedup_vs_bf16 == gemv.ratio
    assert (result.decode_speedup_3bpw, result.decode_speedup_2bpw) == (three.ratio, two.ratio)
    assert result.prefill_ratio == pytest.approx(1 / prefill.ratio)
    assert result.bandwidth_fraction > 0
    assert 0 < two.floor < three.floor
    assert all(min(line.packed, line.dense) > 0 for line in lines)
    keys = ["decode_2", "decode_3", "prefill_256", "decode_4"] if find_spec("llama_cpp") else []
    assert result.vs_llama_cpp == dict(zip(keys, [line.ratio for line in others], strict=True))
    bench.print_table(result, lines, bandwidth)
    table = capsys.readouterr().out
    assert result.kernel in table
    assert all(line.what in table for line in lines)


def test_rounds_take_turns_and_the_first_is_left_out() -> None:
    called: list[str] = []

    def one() -> float:
        called.append("a")
        return float(len(called))

    seconds = bench.in_turn(2, one, lambda: called.append("b"))
    assert called == ["a", "b"] * 3
    assert seconds[0] == [3.0, 5.0]
    assert all(0 <= each < 1 for each in seconds[1])


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    line = bench.compared("x", [1.0, 4.0, 2.0], [5.0, 8.0, 6.0], 0.5)
    assert (line.packed, line.dense, line.ratio) == (2.0, 6.0, 3.0)


@pytest.mark.parametrize("target", [[], ["out.json"]])
def test_json(
    target: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    made: dict[str, Any] = {"result": bench.Result(4.0, 0.5, 3.5, 5.0, 1.3, "portable")}
    monkeypatch.setattr(bench, "measure", lambda *_: (made["result"], [], 1e9))
    monkeypatch.setattr(sys, "argv", ["bench_runtime.py", "--json", *target])
    monkeypatch.chdir(tmp_path)
    bench.main()
    out = capsys.readouterr().out
    text = (tmp_path / target[0]).read_text() if target else out
    assert json.loads(text) == asdict(made["result"])
    assert ("reading alone" in out) == bool(target)  # the table, but beside JSON on stdout
