"""The parts of the benchmark that need no other library: grids, GPTQ, bytes, curves, resuming."""

import importlib
import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pico
from bitstack.recipe import load_recipe


@pytest.fixture(scope="module")
def script() -> Any:
    """`script(name)` imports a module of scripts/."""
    return importlib.import_module


@pytest.fixture(scope="module")
def bench(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("quality")
    text = folder / "text.txt"
    text.write_text(pico.TEXT * 4)
    model = pico.save("llama-gqa", folder / "model")
    return script("peers.bench").Bench(
        model, text, text, folder / "work", tokens=200, window=32, samples=8, length=32
    )


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_grid_rounds_to_its_nearest_value(script: Any) -> None:
    grid = script("peers.grid").whole_range(random(5, 9), 3)
    x = random(5, 9, seed=1)
    values = (torch.arange(8)[None] - grid.zero) * grid.scale  # all of them
    nearest = (x.unsqueeze(2) - values.unsqueeze(1)).abs().amin(2)
    torch.testing.assert_close((grid.round(x) - x).abs(), nearest)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_clipping_is_never_worse_than_the_whole_range(script: Any, bits: int) -> None:
    module, x, weight = script("peers.grid"), random(7, 64), random(64, seed=1).square()

    def error(grid: Any) -> torch.Tensor:
        return ((grid.round(x) - x).square() * weight).sum(1)

    best, whole = error(module.best_range(x, bits, weight)), error(module.whole_range(x, bits))
    assert (best <= whole).all()
    assert best.sum() < 0.9 * whole.sum()


def test_a_constant_group_is_exact(script: Any) -> None:
    x = torch.zeros(2, 8)
    assert torch.equal(script("peers.grid").best_range(x, 2).round(x), x)


@pytest.mark.parametrize(
    ("bits", "group", "expected"), [(2, 64, 2.28125), (3, 64, 3.296875), (4, 128, 4.15625)]
)
def test_bits_of_grouped_codes(script: Any, bits: int, group: int, expected: float) -> None:
    """2.28, 3.30 … : codes, 16 bits of scale and `bits` of zero a group."""
    assert 8 * script("peers.grid").grouped_bytes(128, 256, bits, group) / 128 / 256 == expected


def test_a_last_short_group_counts_whole(script: Any) -> None:
    size = script("peers.grid").grouped_bytes
    assert size(4, 96, 4, 64) == 4 * 96 // 2 + 2 * 8 + 4
    assert size(4, 65, 4, 64) - size(4, 64, 4, 64) == 2 + 2 * 4 + 2


def test_gptq_without_correlations_is_rounding(script: Any) -> None:
    """With a diagonal moment there is nothing to feed back, so every column is its nearest."""
    weight, diagonal = random(6, 20), random(20, seed=1).square() + 0.1
    result = script("peers.gptq").quantise(weight, torch.diag(diagonal), 3, 8)
    column_weights = diagonal + script("peers.gptq").DAMPING * diagonal.mean()
    grid = script("peers.grid")
    parts = zip(weight.split(8, 1), column_weights.split(8), strict=True)
    expected = torch.cat([grid.best_range(x, 3, d).round(x) for x, d in parts], 1)
    torch.testing.assert_close(result, expected)


def test_gptq_steps_are_conditional_optima(script: Any) -> None:
    """Once some columns are fixed, the factor's correction of the rest is the least-squares one."""
    moment = random(40, 5).T @ random(40, 5) / 40
    upper = script("peers.gptq").feedback(moment)
    damped = moment + script("peers.gptq").DAMPING * moment.diagonal().mean() * torch.eye(5)
    error = 0.7  # how far column 0 was rounded down; the others move to make up for it
    moved = -error / upper[0, 0] * upper[0, 1:]
    best = torch.linalg.solve(damped[1:, 1:], damped[1:, 0] * error)
    torch.testing.assert_close(moved, best, rtol=1e-4, atol=1e-5)


def test_gptq_is_near_the_best_of_all_codes(script: Any) -> None:
    """Rows of 5 weights of 3 bits with correlated inputs: all 32,768 codes on their grid tried."""
    gptq, grid = script("peers.gptq"), script("peers.grid")
    total = {"best": 0.0, "gptq": 0.0, "rounded": 0.0}
    for seed in range(12):
        x = random(80, 5, seed=seed) + 1.5 * random(80, 1, seed=seed + 50)
        moment, weight = x.T @ x / 80, random(1, 5, seed=seed + 100)
        column_weights = moment.diagonal() + gptq.DAMPING * moment.diagonal().mean()
        own = grid.best_range(weight, 3, column_weights)
        values = ((torch.arange(8) - own.zero) * own.scale)[0].tolist()
        every = torch.tensor(list(itertools.product(values, repeat=5)))
        tried = {"best": every, "gptq": gptq.quantise(weight, moment, 3, 5)}
        for name, values in (tried | {"rounded": own.round(weight)}).items():
            error = values - weight
            total[name] += float(((error @ moment) * error).sum(1).min())
    assert total["best"] <= total["gptq"] < 0.7 * total["rounded"], total
    assert total["gptq"] < 2 * total["best"]


def test_rows_of_a_whole_model(script: Any, bench: Any) -> None:
    """Own peers end to end: all matrices, bytes that add up, more bits less loss, nothing left
    changed in the model."""
    before = bench.loss(bench.model)
    original = {n: p.clone() for n, p in bench.model.named_parameters()}
    wanted = {"rtn g32", "gptq g64"}
    rows = [
        row
        for name in ("rtn", "gptq")
        for row in script(f"peers.{name}").rows(bench, lambda method, _: method not in wanted)
    ]
    assert [r.method for r in rows] == ["rtn g32"] * 4 + ["gptq g64"] * 4
    for row in rows:
        size = row.resident_bytes - bench.dense_bytes
        assert row.bits_per_weight == pytest.approx(8 * size / bench.linear_weights)
    for some in (rows[:4], rows[4:]):
        sizes = [r.resident_bytes for r in some]
        assert sizes == sorted(sizes)
        assert abs(some[-1].nll_per_token - before) < 0.01 < abs(some[0].nll_per_token - before)
        far = [r.kl_per_token for r in some]
        assert far == sorted(far, reverse=True)
        assert far[-1] < 1e-3 * far[0]
    assert bench.divergence(bench.model) == pytest.approx(0, abs=1e-9)
    for name, parameter in bench.model.named_parameters():
        assert torch.equal(parameter, original[name])


def test_dense_bytes_are_those_of_a_16_bit_model(bench: Any) -> None:
    dense = sum(p.numel() for p in bench.model.parameters()) - bench.linear_weights
    buffers = sum(b.nbytes for b in bench.model.buffers())
    assert bench.dense_bytes == 2 * dense + buffers
    assert bench.linear_weights == sum(m.weights for m in bench.linear) > 0


def test_points_of_a_container(script: Any, bench: Any) -> None:
    """Only what is wanted is loaded, within its bits; the container is made once."""
    points = script("peers.containers").points
    recipe = load_recipe(
        "fast", calibration=str(bench.calibration), num_samples=4, seq_len=32, blocks=4
    )
    loaded = list(points(bench, recipe, "test", lambda s: s in ("3 bits", "3.8 bits")))
    assert [setting for setting, _, _ in loaded] == ["3 bits", "3.8 bits"]
    assert all(
        model.bitstack.bits_per_weight <= bits
        for (_, model, _), bits in zip(loaded, (3, 3.8), strict=True)
    )
    made = bench.work / "containers" / "model-test" / "seconds.json"
    stamp = made.stat().st_mtime_ns
    again = list(points(bench, recipe, "test", lambda s: s == "3 bits"))
    assert made.stat().st_mtime_ns == stamp
    assert again[0][2] == loaded[0][2] > 0
    assert list(points(bench, recipe, "none", lambda s: False)) == []
    assert not (bench.work / "containers" / "model-none").exists()


@pytest.mark.parametrize("name", ["ours", "published"])
def test_a_finished_method_makes_no_container(script: Any, bench: Any, name: str) -> None:
    """Even where budgets below its floor have no rows."""
    rows, last = script(f"peers.{name}").rows, script("peers.containers").LAST
    asked: set[str] = set()

    def done(method: str, setting: str) -> bool:
        asked.add(method)
        return setting == last

    before = sorted((bench.work / "containers").glob("*"))
    assert list(rows(bench, done)) == []
    assert len(asked) > 3
    assert sorted((bench.work / "containers").glob("*")) == before


def test_finished_rows_are_kept_by_task(script: Any, bench: Any, tmp_path: Path) -> None:
    kept, row = script("quality_rows"), script("peers.bench").Row
    file, task, other = tmp_path / "rows.jsonl", bench.task, replace(bench.task, tokens=100)
    rows = kept.Rows(file, task)
    rows.add(row("rtn g64", "2 bits", "both", 2.5, 100, 1.5, 0.1))
    kept.Rows(file, other).add(row("hqq", "2 bits", "both", 2.5, 1, 1.0, 0.1))
    again = kept.Rows(file, task)
    assert again.rows == rows.rows == again.of("rtn")
    assert again.has("rtn g64", "2 bits")
    assert not again.has("hqq", "2 bits")
    assert again.made_by == {kept.commit(): ["rtn g64"]}
    assert kept.tasks(file) == [task, other]
    assert str(tmp_path) not in file.read_text()


def test_rows_are_forgotten_by_method_and_task(script: Any, bench: Any, tmp_path: Path) -> None:
    kept, row = script("quality_rows"), script("peers.bench").Row
    file, task, other = tmp_path / "rows.jsonl", bench.task, replace(bench.task, tokens=100)
    for one in (task, other):
        for method in ("gptq g64", "gptqmodel g64"):
            kept.Rows(file, one).add(row(method, "2 bits", "both", 2.5, 100, 1.5, 0.1))
    kept.forget(file, task, ["gptq"])
    assert [r.method for r in kept.Rows(file, task).rows] == ["gptqmodel g64"]
    assert len(kept.Rows(file, other).rows) == 2
    kept.Rows(file, task).add(row("llama.cpp, embedding too", "Q4_0", "whole", 4.5, 1, 1.5, 0.1))
    assert len(kept.Rows(file, task).of("llama.cpp")) == 1
    kept.forget(file, task, ["llama.cpp"])
    assert not kept.Rows(file, task).of("llama.cpp")


def test_methods_are_told_in_one_order_whatever_was_measured_first(script: Any) -> None:
    report, row = script("quality_report"), script("peers.bench").Row
    names = ["bitstack default", "paper rank 1", "rtn g64", "llama.cpp", "llama.cpp, embedding too"]
    first = row("original", "16 bits", "both", 16, 9, 1.0, 0.0)
    rows = [row(name, "4 bits", "both", 4, 1, 1.5, 1.0) for name in names]
    for given in (rows, rows[::-1]):
        assert report.Curves([first, *given]).methods("whole") == names


def test_a_missing_peer_is_named_and_a_broken_one_too(
    script: Any, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_quality, peers = script("bench_quality"), script("peers")
    monkeypatch.setitem(peers.METHODS, "absent", peers.Method("absent", "x", "no_such_module"))
    monkeypatch.setitem(peers.METHODS, "broken", peers.Method("broken", "no_such_peer"))
    rows = bench_quality.Rows(tmp_path / "rows.jsonl", bench.task)
    missing = bench_quality.measure(bench, rows, ["absent", "broken"])
    assert missing["absent"].startswith("no_such_module is not installed")
    assert missing["broken"].startswith("ModuleNotFoundError")
    assert [r.method for r in rows.rows] == ["original"]


def test_curves_are_interpolated_in_the_logarithm(script: Any) -> None:
    interpolate = script("quality_curves").interpolate
    points = [(4.0, 0.01), (2.0, 1.0), (3.0, 0.1)]
    assert interpolate(points, 2.0) == pytest.approx(1.0)
    assert interpolate(points, 2.5) == pytest.approx(math.sqrt(0.1))
    assert interpolate(points, 1.99) is None
    assert interpolate(points, 4.01) is None
    assert interpolate([], 3.0) is None


def test_targets_are_compared(script: Any) -> None:
    """At 2.2 bits the best paper rank counts; GPTQ at its own bits."""
    report, row = script("quality_report"), script("peers.bench").Row
    own = f"{report.OURS}, linear only"

    def one(method: str, setting: str, bits: float, increase: float, view: str = "both") -> Any:
        return row(method, setting, view, bits, int(1000 * bits), 1 + increase, 3.0)

    rows = [
        one("original", "16 bits", 16, 0.0),
        *[one("paper rank 1", f"{b}", b, 10.0 ** (2 - b)) for b in (1.0, 2.0, 3.0)],
        *[one("paper rank 16", f"{b}", b, 10.0 ** (3 - b)) for b in (1.0, 2.0, 3.0)],
        *[one(own, f"{b}", b, 10.0 ** (1 - b), "linear") for b in (1.0, 2.0, 3.0)],
        *[one(report.OURS, f"{b}", b, 10.0 ** (1 - b), "whole") for b in (1.0, 2.0, 3.0)],
        one("gptq g64", "2 bits", 2.5, 10.0**-1.5 * 4),
    ]
    curves = report.Curves(rows)
    paper = report.against_paper(curves, "classics-5m")
    assert paper[0] == "paper, its best rank, at 2.2 bits: 0.1000, target at most 0.1429, met"
    assert paper[1].endswith("not measured")
    gptq = report.against_gptq(curves, "babyllama105")
    assert gptq[0].endswith("(2.50 bits): 0.2500, target at most 0.2000, MISSED by 25%")
    assert report.against_all(curves)[0].endswith("below 7 of 7 points of peers")
    assert "1.0000, target at most 3.0000, met" in report.times(curves)[0]


def test_a_peer_below_ours_is_named(script: Any) -> None:
    report, row = script("quality_report"), script("peers.bench").Row
    rows = [
        row("original", "16 bits", "both", 16, 9, 1.0, 0.0),
        row(report.OURS, "2", "whole", 2, 100, 1.5, 1.0),
        row(report.OURS, "4", "whole", 4, 200, 1.2, 1.0),
        row("hqq", "3 bits", "both", 3, 150, 1.1, 1.0),
        row("hqq", "8 bits", "both", 8, 400, 1.0, 1.0),
    ]
    said = report.against_all(report.Curves(rows))
    assert said[0].endswith("below 0 of 1 points of peers")
    assert "hqq 3 bits at 150 bytes" in said[1]


def test_plot_and_table(script: Any, bench: Any, tmp_path: Path, capsys: Any) -> None:
    row = script("peers.bench").Row
    rows = [
        row("original", "16 bits", "both", 16, 900, 1.0, 0.0),
        row("bitstack default", "2 bits", "whole", 2, 100, 1.5, 1.0),
        row("hqq", "3 bits", "both", 3, 150, 1.1, 1.0, 0.2),
    ]
    report = script("quality_report")
    curves = report.Curves(rows)
    assert curves.divergences("hqq") == [(150, 0.2)]
    assert curves.divergences("hqq", "linear") == [(3, 0.2)]
    assert curves.divergences("bitstack default") == []  # was not measured
    script("quality_plot").plot(bench.task, rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    made_by = {"0123abc": ["hqq"]}
    report.report(bench.task, rows, {"gptqmodel": "not installed"}, made_by)
    said = capsys.readouterr().out
    assert "missing: gptqmodel: not installed" in said
    assert "measured by 0123abc: hqq" in said
    assert "0.5000" in said


def test_paired_difference(script: Any) -> None:
    lost = script("quality_blimp").difference(np.array([1.0, 1, 0, 1]), np.array([1.0, 0, 0, 1]))
    assert (lost.pairs, lost.before, lost.after, lost.points) == (4, 0.75, 0.5, -25.0)
    assert lost.error == pytest.approx(25.0)
    same = script("quality_blimp").difference(np.ones(5), np.ones(5))
    assert (same.points, same.error) == (0.0, 0.0)


def test_end_to_end(
    script: Any, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The command writes rows and a plot; a second run measures nothing, nor does --kept, which
    asks for neither model nor text."""
    folder, out = tmp_path / "rows", tmp_path / "rows.json"
    own = ["--work", str(tmp_path / "work"), "--rows", str(folder), "--json", str(out)]
    given = ["--model", str(bench.folder), "--calibration", str(bench.calibration)]
    given += ["--text", str(bench.calibration), "--tokens", "200", "--window", "32"]
    monkeypatch.setattr(sys, "argv", ["bench_quality.py", *given, "--methods", "rtn", *own])
    bench_quality = script("bench_quality")
    bench_quality.main()
    kept = json.loads(out.read_text())
    assert len(kept["rows"]) == 13
    assert {"method", "bits_per_weight", "resident_bytes", "nll_per_token", "seconds"} <= set(
        kept["rows"][0]
    )
    assert "hqq" in kept["missing"]
    lines = (folder / "rows-model.jsonl").read_text()
    said = capsys.readouterr().out
    bench_quality.main()
    assert (folder / "rows-model.jsonl").read_text() == lines
    monkeypatch.setattr(sys, "argv", ["bench_quality.py", "--model", "model", "--kept", *own])
    capsys.readouterr()
    bench_quality.main()
    assert said.endswith(capsys.readouterr().out)
    assert json.loads(out.read_text())["rows"] == kept["rows"]


def test_nothing_kept(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    given = ["--model", "model", "--kept", "--rows", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench_quality.py", *given])
    with pytest.raises(SystemExit, match="2"):
        script("bench_quality").main()
    assert "no rows are kept there; run without --kept" in capsys.readouterr().err
