"""The forecast is compared with the run itself, and each case is kept when it is measured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import bench_forecast
import pytest

OPTIONS = ("--calibration", "none", "--blocks", "2", "--search-sweeps", "0")


def test_a_case_is_measured_once(
    pico_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    case = bench_forecast.Case(lambda _: pico_model("llama-tied"), OPTIONS, threads=1)
    monkeypatch.setattr(bench_forecast, "CASES", {"small": case})
    monkeypatch.setattr(bench_forecast, "ROWS", tmp_path / "rows")
    words = ["bench_forecast.py", "--work", str(tmp_path / "work"), "--json", "-"]
    monkeypatch.setattr(sys, "argv", words)
    bench_forecast.main()
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["case"], row["threads"]) == ("small", 1)
    assert len(row["promised"]) == len(row["measured"]) == len(bench_forecast.FIGURES)
    assert row["measured"][1] > 100 << 20  # Python and torch alone
    assert (tmp_path / "work" / "container-small" / "bitstack.json").is_file()
    monkeypatch.setattr(bench_forecast, "run", None)  # nothing runs any more
    bench_forecast.main()
    assert json.loads(capsys.readouterr().out) == [row]


def test_the_table_says_what_is_too_far_off(capsys: pytest.CaptureFixture[str]) -> None:
    row = bench_forecast.Row("one", [130.0, 110, 50], [100.0, 100, 100], 2, "avx2")
    bench_forecast.print_table([row])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" one")]
    assert ["NO" in line for line in lines] == [False, False, True]


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"123")
    (tmp_path / "c").write_bytes(b"1")
    assert bench_forecast.folder_bytes(tmp_path) == 4
