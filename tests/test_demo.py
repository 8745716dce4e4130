"""The demonstration measures what the commands measure, and replaces only its own output."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.image import imread
from rich.console import Console

import pico
from bitstack import demo as demonstration
from bitstack.commands.tables import print_demo
from bitstack.container.planning import plan
from bitstack.demo import Demo, run_demo
from bitstack.errors import UserError
from bitstack.metrics.loss.curve import CurvePoint, plot_memory_quality
from bitstack.metrics.loss.evaluation import evaluate

WINDOW, TOKENS = 32, 200


@pytest.fixture(scope="module")
def small(pico_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    text = tmp_path_factory.mktemp("demo-text") / "text.txt"
    text.write_text(pico.TEXT * 2)
    return {
        "model": pico_model("llama-untied"), "calibration": text, "held_out": text,
        "max_tokens": TOKENS, "window": WINDOW, "blocks": 5, "num_samples": 4, "seq_len": 32,
        "order_samples": 2, "tune_steps": 5, "joint_passes": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def result(small: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Demo]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, run_demo(folder, **small)


def test_five_budgets_beside_the_original(result: tuple[Path, Demo], small: dict) -> None:
    folder, demo = result
    assert [row.name for row in demo.rows] == [
        "original", "floor", "2bpw", "3bpw", "4bpw", "everything",
    ]  # fmt: skip
    original, *packed = (row.scored for row in demo.rows)
    assert original.bits_per_weight == 32
    sizes = [one.resident_bytes for one in packed]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == demo.floor_bytes == plan(folder / "model")[0].resident_bytes
    assert sizes[-1] == plan(folder / "model")[-1].resident_bytes < original.resident_bytes
    for one in packed[1:4]:
        assert one.budget_bytes is not None
        assert one.resident_bytes <= one.budget_bytes
    assert all(one.tokens == original.tokens for one in packed)
    assert all(row.tokens_per_second > 0 for row in demo.rows)


def test_its_figures_are_those_of_eval(result: tuple[Path, Demo], small: dict) -> None:
    folder, demo = result
    text = str(small["held_out"])
    for row, path, budget in (
        (demo.rows[0], small["model"], None),
        (demo.rows[2], folder / "model", "2bpw"),
    ):
        again = evaluate(path, text, budget=budget, window=WINDOW, max_tokens=TOKENS)
        assert row.scored.nll_per_token == pytest.approx(again.nll_per_token)
        assert row.scored.resident_bytes == again.resident_bytes


def test_what_it_writes(result: tuple[Path, Demo]) -> None:
    folder, demo = result
    assert {file.name for file in folder.iterdir()} == {
        ".bitstack-demo", "model", "demo.json", "memory-quality.png", "memory-quality.svg",
    }  # fmt: skip
    record = json.loads((folder / "demo.json").read_text())
    assert len(record["rows"]) == len(demo.rows)
    assert record["rows"][0]["scored"]["bits_per_byte"] == demo.rows[0].scored.bits_per_byte


def test_the_table_says_how_it_was_measured(result: tuple[Path, Demo]) -> None:
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_demo(console, result[1])
    text = console.export_text()
    scored = result[1].rows[0].scored
    assert f"{scored.tokens} tokens of text.txt, window {WINDOW}, stride {WINDOW}" in text
    for row in result[1].rows:
        assert f"{row.scored.bits_per_byte:.4f}" in text
    assert demonstration.PROMPT in text


def test_it_replaces_its_own_output_and_no_other(
    result: tuple[Path, Demo], small: dict, tmp_path: Path
) -> None:
    folder, demo = result
    (folder / "notes.txt").write_text("mine")
    again = run_demo(folder, **small)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    assert [row.scored for row in again.rows] == [row.scored for row in demo.rows]
    assert [row.continuation for row in again.rows] == [row.continuation for row in demo.rows]
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="is not empty"):
        run_demo(tmp_path, **small)
    assert (tmp_path / "model").is_dir()
    with pytest.raises(UserError, match="is a file"):
        run_demo(folder / "demo.json", **small)


def test_the_plot_shows_every_curve(tmp_path: Path) -> None:
    points = [CurvePoint(2**20 * i, 3 / i, f"at {i}") for i in (3, 1, 2)]
    original = CurvePoint(2**23, 0.9, "the whole")
    curves = {"ours": points, "theirs": [CurvePoint(2**21, 2.5)]}
    png, svg = plot_memory_quality(curves, original, tmp_path, title="T", caption="on a text")
    assert imread(png).std() > 0.01
    first = svg.read_bytes()
    drawn = first.decode()
    ElementTree.fromstring(drawn)
    for label in ("ours", "theirs", "the whole", "at 1", "at 3", "on a text"):
        assert f"<!-- {label} -->" in drawn
    plot_memory_quality(curves, original, tmp_path, title="T", caption="on a text")
    assert svg.read_bytes() == first
