"""Budgets of a card: their bytes, and measurements that are kept for the same settings only."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pico
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.hub import measured
from bitstack.hub.measured import EVALUATIONS, Text, budget_rows, default_budgets


@pytest.fixture
def container(stacked: Callable[..., Path], tmp_path: Path) -> Path:
    made = stacked("llama-gqa", blocks=4, shard_size="8kB")
    return shutil.copytree(made, tmp_path / "container")


@pytest.fixture
def manifest(container: Path) -> Manifest:
    return read_manifest(container)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the models that are measured."""
    keys: list[str] = []
    score = measured._score
    monkeypatch.setattr(
        measured,
        "_score",
        lambda folder, key, *rest: (keys.append(key), score(folder, key, *rest))[1],
    )
    return keys


def test_default_budgets_lie_between_the_smallest_and_the_whole(manifest: Manifest) -> None:
    budgets = default_budgets(manifest)
    sizes = [
        b.to_bytes(
            original_bytes=manifest.original_bytes,
            fixed_bytes=manifest.fixed_bytes,
            weights=manifest.weights,
        )
        for b in budgets
    ]
    assert [budgets[0].text, budgets[-1].text] == ["floor", "everything"]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == manifest.budgets.floor_bytes
    assert sizes[-1] == manifest.budgets.total_bytes


def test_a_larger_budget_downloads_more_files(container: Path, manifest: Manifest) -> None:
    rows, original = budget_rows(container, manifest, [], None)
    downloads = [row.download_bytes for row in rows]
    assert downloads == sorted(downloads)
    assert downloads[0] < downloads[-1] == sum(shard.bytes for shard in manifest.shards)
    assert original is None
    assert {(row.scored, row.recovery) for row in rows} == {(None, None)}


def test_measurements_are_kept_for_the_same_settings(
    container: Path, manifest: Manifest, tmp_path: Path, scored: list[str]
) -> None:
    file = tmp_path / "held-out.txt"
    file.write_text(pico.TEXT)
    floor = manifest.budgets.floor_bytes
    text = Text(str(file), window=32)
    (first,), _ = budget_rows(container, manifest, [floor], text)
    assert budget_rows(container, manifest, [floor], text)[0] == [first]
    assert scored == [str(floor)]
    (other,), _ = budget_rows(container, manifest, [floor], Text(str(file), window=16))
    assert len(scored) == 2
    assert first.scored is not None
    assert other.scored is not None
    assert (first.scored.window, other.scored.window) == (32, 16)
    assert first.scored.text == "held-out.txt"  # a name, not a path
    for damage in ("{", json.dumps({"asked": {}}), json.dumps([])):
        (container / EVALUATIONS).write_text(damage)
        (again,), _ = budget_rows(container, manifest, [floor], text)
        assert again == first
    assert len(scored) == 5
