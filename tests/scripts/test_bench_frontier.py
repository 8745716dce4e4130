"""Quality over time: settings and sizes, what a row costs, our runs, tables, picture, resuming."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pico

LLAMA = "llama.cpp, embedding too"
SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_frontier.py"


@pytest.fixture(scope="module")
def script() -> Any:
    """`script(name)` imports a module of scripts/."""
    return importlib.import_module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico model and a text."""
    made = tmp_path_factory.mktemp("frontier")
    (made / "text.txt").write_text(pico.TEXT * 4)
    pico.save("llama-tied", made / "model")
    return made


@pytest.fixture
def bench(script: Any, folder: Path) -> Any:
    text = folder / "text.txt"
    return script("frontier.cost").MeteredBench(
        folder / "model", text, text, folder / "work", tokens=100, window=32, samples=4, length=32,
        limits=script("peers.limits").Limits(groups=(64,), bits={"rtn": (3,)}, embeddings=True),
    )  # fmt: skip


@pytest.fixture
def made_up(script: Any) -> list[Any]:
    """Rows of a model of 800 weights: peers near 4.4 and 6.2 bits, ours with half of their KL."""
    priced = script("frontier.cost").PricedRow

    def one(method: str, setting: str, size: int, kl: float, minutes: float) -> Any:
        cost = 90 * minutes, 2**30, 2, "avx2"
        return priced(method, setting, "whole", 4, size, 3 + kl, 60 * minutes, kl, *cost)

    rows = [
        one("original", "16 bits", 1600, 0.0, 0),
        one(LLAMA, "IQ2_S", 440, 0.2, 2),
        one("llama.cpp-mix", "440 bytes", 439, 0.1, 4),
        one(LLAMA, "Q4_K_M", 620, 0.02, 3),
        one("gptq g64, embedding 8 bits", "3 bits", 445, 0.15, 30),
        one("matgptq g64, embedding 8 bits", "3 bits", 447, 0.25, 33),
        one("hqq g64 axis 1", "3 bits", 441, 0.9, 0.2),
    ]
    for method, factor, minutes in (("fast", 0.5, 8), ("default 60m", 0.2, 75)):
        for size, kl in ((300, 0.8), (440, 0.2), (445, 0.18), (620, 0.02)):
            name = f"bitstack {method}"
            rows.append(one(name, f"{size} bytes", size, kl * factor, minutes))
        rows.append(one(name, script("peers.containers").LAST, 800, 0.001 * factor, minutes))
    return rows


def test_every_method_has_settings_of_its_own(script: Any) -> None:
    module = script("frontier.settings")
    found = list(module.settings([], [10, 20]))
    names = [setting.name for setting in found]
    assert len(set(names)) == len(names)
    assert {s.family for s in found} == {"original", *module.FAMILIES}
    assert [n for n in names if n.startswith("llama.cpp-mix")] == [
        "llama.cpp-mix 10 bytes", "llama.cpp-mix 20 bytes",
    ]  # fmt: skip
    by_name = {s.name: s for s in found}
    assert by_name["gptq g64 3 bits"].limits.bits == {"gptq": (3,)}
    assert by_name[f"{LLAMA} Q2_K"].limits.types == ("Q2_K",)
    assert len(by_name["matgptq g64"].rows) == 8
    gptq = by_name["gptq g64 2 bits"]
    assert gptq.lacks(lambda *row: row == ("gptq g64", "2 bits"))
    assert not gptq.lacks(lambda method, _: method.startswith("gptq"))


def test_a_setting_measures_its_own_rows_only(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, asked = script("frontier.settings"), []
    method = script("peers").Method

    def rows(self: Any, bench: Any, done: Any) -> list[Any]:
        every = [(f"gptq g{g}{e}", f"{b} bits") for g in (64, 128) for b in (2, 3)
                 for e in ("", ", embedding 8 bits")]  # fmt: skip
        asked.extend(row for row in every if not done(*row))
        return []

    monkeypatch.setattr(method, "rows", rows)
    setting = next(s for s in module.settings([], []) if s.name == "gptq g64 2 bits")
    setting.measure(None, lambda *row: row == ("gptq g64", "2 bits"))
    assert asked == [("gptq g64, embedding 8 bits", "2 bits")]


def test_ours_are_measured_at_the_bytes_of_the_others(script: Any, made_up: list[Any]) -> None:
    module, last = script("frontier.settings"), script("peers.containers").LAST
    peers = [row for row in made_up if not row.method.startswith("bitstack")]
    assert module.type_sizes(peers) == [440, 620]
    sizes = [*module.type_sizes(peers), 1000]
    wanted = module.own_sizes("bitstack fast", peers, sizes)
    assert wanted == [439, 440, 445, 447, 620, 1000]  # not of HQQ
    assert module.own_sizes("bitstack fast", made_up, sizes) == [439, 447]
    own = next(s for s in module.settings(made_up, sizes) if s.name == "bitstack fast")
    assert own.rows == (
        ("bitstack fast", last), ("bitstack fast", "439 bytes"), ("bitstack fast", "447 bytes"),
    )  # fmt: skip
    first = next(s for s in module.settings(peers, sizes) if s.name == "bitstack fast")
    assert [setting for _, setting in first.rows[:4]] == ["2 bits", "3 bits", "4 bits", last]


def test_evaluation_is_not_counted(
    script: Any, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processor seconds come from a clock that runs on by 1 wherever work is done, and by 100 in
    an evaluation."""
    cost, now = script("frontier.cost"), [0.0]
    monkeypatch.setattr(cost, "cpu_seconds", lambda: now[0])

    monkeypatch.setattr(cost, "peak_bytes", lambda: 2**30 + int(now[0]))

    def loss(model: Any) -> float:
        now[0] += 100
        return 1.0

    monkeypatch.setattr(bench, "loss", loss)
    measured = script("peers.rtn").rows(bench, lambda *_: False)
    bench.start()
    found = []
    for _ in range(3):  # embedding in 16 bits, 8 bits, 3 bits
        now[0] += 1
        found.append(next(measured))
    assert [row.cpu_seconds for row in found] == [1, 2, 3]
    assert found[0].threads == torch.get_num_threads()
    assert [row.peak_bytes for row in found] == [2**30 + 1] * 3
    bench.known = cost.Cost(5.0, 7.0, 11, 2, "avx2")
    row = bench.scored("x", "y", "whole", 4, 9, bench.model, 5.0)
    assert (row.seconds, row.cpu_seconds, row.peak_bytes, row.vectors) == (5.0, 7.0, 11, "avx2")


def test_what_settings_share_is_made_once_and_counted_in_each(
    script: Any, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost, now, made = script("frontier.cost"), [0.0], []
    monkeypatch.setattr(cost, "cpu_seconds", lambda: now[0])
    monkeypatch.setattr(bench, "loss", lambda model: 1.0)

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        now[0] += 7
        return {"a.weight": np.arange(3, dtype=np.float32)}

    for first in (True, False):
        bench.start()  # as every process does
        values, earlier = bench.shared("importance", make)
        assert values["a.weight"].tolist() == [0, 1, 2]
        assert (earlier == 0) == first
        now[0] += 2
        assert bench.scored("x", "y", "whole", 4, 9, bench.model, 1.0).cpu_seconds == 9
    assert made == [1]


def test_the_peak_is_that_of_the_process(script: Any) -> None:
    cost = script("frontier.cost")
    before = cost.peak_bytes()
    block = torch.ones(before // 2)  # 4 bytes each
    assert cost.peak_bytes() - before > block.nbytes / 4
    assert isinstance(cost.vectors(), str)
    start = cost.cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert cost.cpu_seconds() > start


def test_a_run_of_ours_is_made_once(script: Any, bench: Any) -> None:
    """An interrupted run starts anew; a finished one is loaded at more sizes, at its old cost."""
    module, last = script("frontier.ours"), script("peers.containers").LAST
    run = module.RUNS[0]
    folder = run.folder(bench.work, bench.task.model)
    folder.mkdir(parents=True)
    (folder / "half").touch()
    bench.sizes = lambda _: []
    rows = list(module.rows(bench, run, lambda *_: False))
    assert [row.setting for row in rows] == ["2 bits", "3 bits", "4 bits", last]
    assert not (folder / "half").exists()
    assert rows[0].seconds > 0
    assert rows[0].cpu_seconds > 0
    size = rows[1].resident_bytes
    bench.sizes = lambda _: [size]
    more = list(module.rows(bench, run, lambda _, setting: not setting.endswith("bytes")))
    assert [(r.setting, r.resident_bytes) for r in more] == [(f"{size} bytes", size)]
    assert (more[0].seconds, more[0].peak_bytes) == (rows[0].seconds, rows[0].peak_bytes)
    assert more[0].kl_per_token == rows[1].kl_per_token
    module.discard(bench.work, bench.task.model)
    assert not folder.exists()


def test_tables_and_targets(script: Any, bench: Any, made_up: list[Any], capsys: Any) -> None:
    report, curves = script("frontier.report"), script("quality_curves").Curves(made_up)
    said = list(report.verdicts(curves))
    assert said[0] == f"bitstack fast, KL over that of {LLAMA}, at most 1:"
    assert said[1] == "  IQ2_S, 440 bytes: 0.500, met by a factor of 2.00"
    assert "  Q2_K: not measured" in said
    long = said.index("bitstack default 60m, KL over that of gptq g64, at most 0.7:")
    assert said[long + 2] == "  3 bits, embedding 8 bits, 445 bytes: 0.240, met by a factor of 2.92"
    assert "  bitstack default 20m, minutes: not measured" in said
    assert "  bitstack default 60m, minutes: 75.00, at most 69, MISSED" in said
    assert "  bitstack fast, minutes: 8.00, at most 12, met" in said
    assert "  bitstack fast, GiB at the peak: 1.00, at most 1.5, met" in said
    to = script("bitstack.commands.tables").console()
    for grid in report.tables(curves).values():
        to.print(grid)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["IQ2_S", "440", "0.2000", "2.0", "0.1000", "4.0", "=0.1000", "0.50", "-", "-",
            "=0.0400", "0.20"] in printed  # fmt: skip
    gptq = next(line for line in printed if line[:5] == ["gptq", "g64", "3", "8", "0.00"])
    assert gptq[5:9] == ["0.1500", "30.0", "=0.0900", "0.60"]
    assert ["bitstack", "fast", "8.0", "12.0", "1.00", "2", "avx2"] in printed


def test_the_picture(script: Any, bench: Any, made_up: list[Any], tmp_path: Path) -> None:
    plot = script("frontier.plot")
    panels = plot.panels_of(made_up)
    assert list(panels) == [4.4, 6.2]
    labels = {point.label: point for point in panels[4.4]}
    assert set(labels) == {
        "llama.cpp IQ2_S", "llama.cpp mix of types", "GPTQ 3 bits", "MatGPTQ 3 bits", "HQQ 3 bits",
        "bitstack fast", "bitstack 60m",
    }  # fmt: skip
    assert labels["bitstack fast"].kl == 0.1
    assert labels["GPTQ 3 bits"].minutes == 30
    assert plot.plot(bench.task, made_up, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").stat().st_size > 10_000
    assert not plot.plot(bench.task, made_up[:3], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_labels_do_not_meet(script: Any) -> None:
    plot = script("frontier.plot")
    points = [plot.Point("", "gptq", 1, kl) for kl in (0.2, 0.1, 0.101, 0.5)]
    up = plot.places(points, 0.05, 1)
    assert up[1] == pytest.approx(0.1)
    assert up[1] < up[2] < up[0]
    assert up[3] == pytest.approx(0.5)
    down = plot.places(points, 0.05, 1, up=False)
    assert down[2] == pytest.approx(0.101)
    assert down[1] < 0.1


def test_a_label_meets_no_mark(script: Any) -> None:
    """One that stands a little below the first label's height, and one where it moves to."""
    plot = script("frontier.plot")
    points = [plot.Point("", "gptq", 1, 0.1), plot.Point("", "hqq", 1, 0.5)]
    first, second = plot.places(points, 0.05, 1, [[0.097, 0.115], [0.1]])
    assert first > 0.12
    assert second == pytest.approx(0.5)


def test_end_to_end(
    script: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A process for each setting; a second run measures nothing, nor does --kept; a library that
    is not there is named."""
    text, out = str(folder / "text.txt"), tmp_path / "rows.json"
    own = ["--work", str(tmp_path / "work"), "--rows", str(tmp_path), "--json", str(out)]
    own += ["--plot", str(tmp_path / "picture.png")]
    given = ["--model", str(folder / "model"), "--calibration", text, "--text", text]
    given += ["--tokens", "100", "--window", "32", "--samples", "4"]
    bench_frontier, peers = script("bench_frontier"), script("peers")
    absent = peers.Method("hqq", "x", "no_such_module")
    monkeypatch.setitem(peers.METHODS, "hqq", absent)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words, *own])
        bench_frontier.main()
        return str(capsys.readouterr().out)

    said = run(*given, "--methods", "matgptq", "hqq")
    record = json.loads(out.read_text())
    assert [r["method"] for r in record["rows"][:2]] == ["original", "matgptq g64"]
    assert len(record["rows"]) == 17
    assert all(row["cpu_seconds"] > 0 for row in record["rows"][1:])
    assert record["missing"]["hqq g64 axis 0 2 bits"].startswith("no_such_module is not installed")
    file = tmp_path / "frontier-model.jsonl"
    lines = file.read_text()
    assert str(tmp_path) not in lines
    assert run(*given, "--methods", "matgptq", "hqq") == said
    kept = run("--model", "model", "--kept")
    assert kept == said[: said.index("missing:")]
    assert file.read_text() == lines
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *given, *own, "--here", "gptq"])
    with pytest.raises(SystemExit, match="2"):
        bench_frontier.main()
    assert "--here gptq: no setting; known are: original 16 bits; " in capsys.readouterr().err


def test_rows_are_dropped_with_our_containers(script: Any, folder: Path, tmp_path: Path) -> None:
    bench_frontier, ours = script("bench_frontier"), script("frontier.ours")
    given = ["--model", str(folder / "model"), "--work", str(tmp_path)]
    made = ours.RUNS[0].folder(tmp_path, "model")
    made.mkdir(parents=True)
    task = script("peers.bench").Task("model", "", "", "", 1, 1, 1, 1)
    file = tmp_path / "rows.jsonl"
    rows = script("quality_rows").Rows(file, task, script("frontier.cost").PricedRow)
    for method in ("bitstack fast", "gptq g64"):
        rows.add(script("frontier.cost").PricedRow(method, "2 bits", "both", 2, 1, 1.0, 1.0, 0.1))
    options = bench_frontier.arguments([*given, "--methods", "gptq"])
    bench_frontier.drop(file, task, options)
    assert made.exists()
    options = bench_frontier.arguments([*given, "--methods", "bitstack"])
    bench_frontier.drop(file, task, options)
    assert not made.exists()
    assert file.read_text() == ""
