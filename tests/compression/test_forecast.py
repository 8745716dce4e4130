"""What a run is said to take, and what of it stops it early."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitstack.cli import app
from bitstack.compression import inputs
from bitstack.compression.forecast import forecast
from bitstack.compression.pipeline import compress
from bitstack.container.manifest import read_manifest
from bitstack.errors import UserError
from bitstack.recipe import load_recipe

Folder = Callable[..., Path]
FEW = {"num_samples": 2, "seq_len": 16, "order_samples": 1, "blocks": 2, "tune_steps": 0}


def test_the_container_is_as_large_as_was_said(
    pico_model: Folder, text_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(calibration=str(text_file), **FEW)
    prediction = forecast(pico_model("llama-tied"), tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()
    manifest = read_manifest(compress(pico_model("llama-tied"), tmp_path / "out", recipe=recipe))
    stored = sum(t.bytes for e in manifest.stacks for t in e.spec.all())
    dense = sum(e.bytes for e in manifest.dense)
    outliers = sum(t.bytes for e in manifest.stacks for t in e.spec.kept)
    assert prediction.container_bytes == stored + dense - outliers
    assert outliers <= 6 * prediction.weights / 100
    assert prediction.matrices == len(manifest.stacks)
    assert prediction.original_bytes == manifest.original_bytes
    assert prediction.disk_bytes > 2 * prediction.container_bytes
    assert (
        min(prediction.calibrate_seconds, prediction.decompose_seconds, prediction.finish_seconds)
        > 0
    )


def test_dry_run_prints_and_writes_nothing_else(pico_model: Folder, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    common = ["run", str(pico_model("llama-tied")), "--output", output, "--dry-run"]
    common += ["--calibration", "none"]
    shown = CliRunner().invoke(app, [*common, "--blocks", "2"])
    assert shown.exit_code == 0, shown.output
    for part in ("decomposition", "memory at its peak", "disk at its peak", "container"):
        assert part in shown.stdout
    record = json.loads(CliRunner().invoke(app, [*common, "--json", "-"]).stdout)
    assert record["memory_bytes"] > 0
    assert record["seconds"] >= record["decompose_seconds"]
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_told_beforehand(
    pico_model: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "memory_room", lambda: 100 << 20)
    with pytest.raises(UserError, match=r"MiB of memory are needed .* but 100\.00 MiB can be had"):
        compress(pico_model("llama-tied"), tmp_path / "out", calibration="none", **FEW)
    assert not (tmp_path / "out").exists()
