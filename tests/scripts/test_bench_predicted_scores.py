"""The script end to end on a pico container, and its rivals by hand.

Also covers `scripts/predicted_cases.py`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import bench_predicted_scores as script
import predicted_cases
import pytest
from choices import write_piqa


def test_scores_are_predicted_beside_measured_ones_and_a_stopped_run_goes_on(
    stacked: Callable[..., Path], pico_model: Callable[..., Path], text_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    work, output = tmp_path / "work.json", tmp_path / "out.json"
    words = [stacked("llama-gqa"), "--original", pico_model("llama-gqa"), "--text", text_file]
    words += ["--tasks", "piqa:20", "--tasks-folder", write_piqa(tmp_path), "--work", work]

    def run(*budgets: str) -> None:
        more = ["--budget", *budgets, "--measured", "floor", "--json", output]
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, [*words, *more])])
        script.main()

    run("floor", "3bpw")
    kept = json.loads(work.read_text())["sizes"]
    monkeypatch.setattr(script, "kl_from", lambda *_: 0.123)
    run("floor", "3bpw", "4bpw")
    again = json.loads(work.read_text())["sizes"]
    assert {name: again[name] for name in kept} == kept
    assert again["4bpw"]["kl"] == 0.123
    record = json.loads(output.read_text())
    # Two metrics, six choices of one or two of three budgets: 3 · 2 and 3 · 1 others.
    assert len(record["cases"]) == 2 * (6 + 3)
    assert sum(row["cases"] for row in record["summary"]) == 18
    assert "predicted" in capsys.readouterr().out
    words[words.index("piqa:20")] = "piqa:10"
    with pytest.raises(SystemExit) as stopped:
        run("floor")
    assert stopped.value.code == 2
    assert "other settings" in capsys.readouterr().err


def test_rivals_and_errors_by_hand() -> None:
    sizes = {
        name: {"kl": kl, "resident_bytes": size, "margins": {"t acc": margins}}
        for name, kl, size, margins in [
            ("original", 0.0, 100, [1.0] * 4), ("small", 1.0, 20, [1.0, -1.0, -1.0, -1.0]),
            ("middle", 0.5, 40, [1.0, 1.0, -1.0, -1.0]),
        ]
    }  # fmt: skip
    (case,) = predicted_cases.predictions(sizes, "t acc", ("small",))
    assert (case.budget, case.measured, case.extrapolated) == ("middle", 0.5, False)
    assert case.line_over_kl == pytest.approx(0.625)
    assert case.line_over_bytes == pytest.approx(0.25 + 0.75 * 20 / 80)
    row = predicted_cases.summary([case])[0]
    assert row["line over KL"] == pytest.approx(12.5)
    assert row["predicted"] == pytest.approx(100 * abs(case.predicted - 0.5))
    (level,) = predicted_cases.predictions(sizes, "t acc", ("middle",))
    assert level.extrapolated
    assert level.line_over_kl == level.line_over_bytes == 0.5
