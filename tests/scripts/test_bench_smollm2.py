"""The real model of the benchmark: its settings, rows with a rounded embedding, the tables at equal
bytes. A pico model stands in for it."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pico


@pytest.fixture(scope="module")
def script() -> Any:
    """`script(name)` imports a module of scripts/."""
    return importlib.import_module


@pytest.fixture(scope="module")
def bench(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pico model with a tied embedding, and the settings of the real one."""
    folder = tmp_path_factory.mktemp("smollm2")
    text = folder / "text.txt"
    text.write_text(pico.TEXT * 4)
    model = pico.save("llama-tied", folder / "model")
    limits = script("quality_presets").PRESETS["SmolLM2"].limits
    return script("peers.bench").Bench(
        model, text, text, folder / "work", tokens=200, window=32, samples=8, length=32,
        limits=limits,
    )  # fmt: skip


def nothing_done(*_: str) -> bool:
    return False


def test_the_name_is_of_any_case(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets = script("quality_presets")
    preset = presets.PRESETS["SmolLM2"]
    monkeypatch.setitem(
        presets.PRESETS, "SmolLM2", replace(preset, make=lambda work: work / "made")
    )
    for name in ("SmolLM2", "smollm2", "SMOLLM2"):
        assert presets.name_of(Path(name)) == "SmolLM2"
        assert presets.folder_of(Path(name), tmp_path) == tmp_path / "made"
    own = tmp_path / "SmolLM2"  # a folder that is given stays that folder
    assert presets.name_of(own) == "SmolLM2"
    assert presets.folder_of(own, tmp_path / "other") == own
    assert presets.name_of(tmp_path / "mine") == "mine"


def test_options_come_before_the_preset(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, preset = script("bench_quality"), script("quality_presets").PRESETS["SmolLM2"]
    words = ["--groups", "64", "128", "--bits", "8", "--recipes", "default"]
    for given, groups, bits, recipes in (
        ([], [64], [2, 3, 4], ("fast", "no-text")),
        (words, [64, 128], [8], ("default",)),
    ):
        monkeypatch.setattr(sys, "argv", ["bench_quality.py", "--model", "smollm2", *given])
        limits = module.limits(module.arguments(), preset.limits)
        assert limits.groups_of((32, 64, 128)) == groups
        assert limits.bits_of("gptq", (2, 3, 4, 8)) == bits
        assert limits.recipes == recipes
    assert preset.limits.bits_of("rtn", (2, 3, 4, 8)) == [2, 3, 4, 8]


def test_rows_with_a_rounded_embedding(script: Any, bench: Any) -> None:
    """One quantisation of the linear matrices, three rows; every byte by hand."""
    rows = list(script("peers.rtn").rows(bench, nothing_done))
    names = [r.method for r in rows if r.setting == "4 bits"]
    assert names == ["rtn g64", "rtn g64, embedding 8 bits", "rtn g64, embedding too"]
    assert [r.method for r in rows if r.setting == "8 bits"] == names[:2]
    dense, eight, same = (r for r in rows if r.setting == "4 bits")
    vocabulary, width = bench.model.get_input_embeddings().weight.shape
    groups = vocabulary * -(-width // 64)
    for row, bits in ((eight, 8), (same, 4)):
        stored = vocabulary * width * bits // 8 + 2 * groups + math.ceil(groups * bits / 8)
        assert row.resident_bytes == dense.resident_bytes - 2 * vocabulary * width + stored
        assert row.view == "whole"
    assert dense.view == "both"
    assert abs(eight.kl_per_token - dense.kl_per_token) < 0.1 * dense.kl_per_token
    assert same.kl_per_token > eight.kl_per_token
    assert same.bits_per_weight < eight.bits_per_weight
    original = bench.fresh().get_input_embeddings().weight
    assert torch.equal(bench.model.get_input_embeddings().weight, original)


def test_a_row_takes_one_pass(script: Any, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and KL are those of two passes, and the original is run once for all rows."""
    remembered, sizes = script("peers.remembered").Remembered, []
    model, whole = bench.fresh(), replace(bench.task, window=100)  # one batch either way
    monkeypatch.setattr(bench, "task", whole)
    model.get_input_embeddings().weight.mul_(1.1)
    model.register_forward_hook(lambda *_: sizes.append(1))
    row = bench.scored("x", "y", "both", 16, 1, model, 0.0)
    assert len(sizes) == 1
    assert row.nll_per_token == bench.loss(model)
    assert row.kl_per_token == bench.divergence(model) > 0
    assert isinstance(bench.original, remembered)
    bench.original.model.register_forward_hook(lambda *_: sizes.append(2))
    bench.divergence(model)
    assert 2 not in sizes


def test_only_what_is_missing_is_quantised(
    script: Any, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, made = script("peers.gptq"), []

    def quantise(model: Any, bench: Any, bits: int, group: int) -> Any:
        made.append((bits, group))
        return {m.parameter: model.get_parameter(m.parameter) for m in bench.linear}

    monkeypatch.setattr(module, "quantise_model", quantise)

    def done(method: str, setting: str) -> bool:
        return setting != "3 bits" or "embedding" not in method

    rows = list(module.rows(bench, done))
    assert [(r.method, r.setting) for r in rows] == [("gptq g64, embedding 8 bits", "3 bits")]
    assert made == [(3, 64)]


def test_a_container_is_measured_at_given_bytes(
    script: Any, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a setting in bits has the same levels; sizes outside of it are left out."""
    ours = script("peers.ours")
    monkeypatch.setattr(bench, "limits", replace(bench.limits, recipes=("no-text",)))
    monkeypatch.setattr(bench, "sizes", lambda method: [1, 10**9])
    last = script("peers.containers").LAST

    def done(_: str, setting: str) -> bool:
        return setting not in ("3 bits", last) and not setting.endswith("bytes")

    first = list(ours.rows(bench, done))
    assert [r.method for r in first[::2]] == [
        "bitstack fast, no text", "bitstack fast, no text, linear only",
    ]  # fmt: skip
    assert [r.setting for r in first] == ["3 bits", last] * 2
    size = first[0].resident_bytes
    monkeypatch.setattr(bench, "sizes", lambda method: [] if "linear" in method else [size])
    rows = list(ours.rows(bench, lambda _, setting: not setting.endswith("bytes")))
    assert [(r.setting, r.resident_bytes) for r in rows] == [(f"{size} bytes", size)]
    assert rows[0].nll_per_token == first[0].nll_per_token


@pytest.fixture
def made_up(script: Any) -> list[Any]:
    """Rows of a model whose KL falls by ten with each bit; ours has half of GPTQ's, no more bytes
    than 800."""
    row = script("peers.bench").Row

    def one(method: str, setting: str, view: str, bits: float, size: int, kl: float) -> Any:
        return row(method, setting, view, bits, size, 1 + kl, 0.1, kl)

    last = script("peers.containers").LAST
    return [
        one("original", "16 bits", "both", 16, 1600, 0.0),
        one("gptq g64", "2 bits", "both", 2.25, 900, 0.2),
        one("gptq g64, embedding 8 bits", "2 bits", "whole", 2.5, 500, 0.2),
        one("gptq g64, embedding 8 bits", "3 bits", "whole", 3.5, 600, 0.02),
        one("gptq g128", "2 bits", "both", 2.2, 890, 0.3),
        one("llama.cpp, embedding too", "Q4_K_M", "whole", 5, 700, 0.01),
        one("bitstack fast", "500 bytes", "whole", 2.4, 499, 0.1),
        one("bitstack fast", "4 bits", "whole", 4, 700, 0.001),
        one("bitstack fast", last, "whole", 8, 800, 0.0001),
        one("bitstack fast, linear only", "2 bits", "linear", 2.0, 850, 0.4),
        one("bitstack fast, linear only", last, "linear", 8.0, 1200, 0.0001),
    ]


def test_ours_at_equal_bytes(script: Any, made_up: list[Any]) -> None:
    module = script("quality_equal")
    curves = script("quality_curves").Curves(made_up)
    assert module.at(curves, "bitstack fast", 500, "whole") == (0.1, "=")
    assert module.at(curves, "bitstack fast", 900, "whole") == (0.0001, "<")
    between = module.at(curves, "bitstack fast", 600, "whole")
    assert between == (pytest.approx(0.1 ** (1 + 2 * 101 / 201)), "~")
    assert module.at(curves, "bitstack fast", 400, "whole") is None
    assert module.at(curves, "bitstack default", 600, "whole") is None


def test_targets_at_equal_bytes(script: Any, made_up: list[Any]) -> None:
    module = script("quality_equal")
    curves = script("quality_curves").Curves(made_up)
    said = list(module.compared(curves, "SmolLM2"))
    assert said[0] == "bitstack fast, KL over that of gptq g64, at most 1:"
    assert said[1] == "  2 bits, 900 bytes: 0.001, met by a factor of 2000.00"
    assert said[2] == "  2 bits, embedding 8 bits, 500 bytes: 0.500, met by a factor of 2.00"
    assert said[3].startswith("  2 bits, 2.250 bits, linear only: 1.4")
    assert "MISSED by a factor of 1.4" in said[3]
    assert "  4 bits: not measured" in said
    assert "  Q4_K_M, 700 bytes: 0.100, met by a factor of 5.00" in said  # half is allowed
    assert "  IQ2_S: not measured" in said


def test_sizes_that_lack_a_row(script: Any, made_up: list[Any]) -> None:
    """Those of the targets, without the one that is measured, and within a finished method."""
    sizes = script("quality_equal").sizes
    assert sizes(made_up, "SmolLM2", "bitstack fast") == [600, 700]
    peers = [r for r in made_up if not r.method.startswith("bitstack")]
    assert sizes(peers, "SmolLM2", "bitstack fast") == [500, 600, 700, 900]
    assert sizes(peers, "SmolLM2", "bitstack fast, linear only") == []
    assert sizes(peers, "babyllama105", "bitstack fast") == []


def test_the_report_of_the_real_model(
    script: Any, bench: Any, made_up: list[Any], capsys: Any
) -> None:
    task = replace(bench.task, model="SmolLM2", tokens=4096)
    script("quality_report").report(task, made_up, {})
    said = capsys.readouterr().out
    assert "over the first 4096 tokens" in said
    assert "lie on the grid of Q4_1 in groups of 32" in said
    table = said[said.index("At equal bytes") : said.index("At equal bits")]
    assert "gptq g64, embedding 8 bits" in table
    assert "gptq g128" not in table
    assert "=0.1000" in table
    assert "MISSED" in said
    assert "paper" not in said
