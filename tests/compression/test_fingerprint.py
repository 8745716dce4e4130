"""The fingerprint changes with everything that changes the container, and with nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from bitstack.compression import fingerprint as module
from bitstack.compression.fingerprint import fingerprint
from bitstack.original.source import open_source
from bitstack.recipe import load_recipe

Folder = Callable[..., Path]


def files(folder: Path) -> list[Path]:
    return open_source(folder).identity


@pytest.fixture
def model(pico_model: Folder, tmp_path: Path) -> Path:
    return shutil.copytree(pico_model("llama-tied"), tmp_path / "model")


def test_same_parts_same_hash_wherever_they_lie(model: Path, tmp_path: Path) -> None:
    recipe = load_recipe(calibration="text.txt")
    one = fingerprint(files(model), recipe, "abc")
    moved = model.rename(tmp_path / "moved")
    (moved / "README.md").write_text("Another word about this model.")
    elsewhere = load_recipe(calibration="elsewhere/text.txt")
    assert fingerprint(files(moved), elsewhere, "abc") == one
    assert len(one) == 64


def test_weights_and_config_count(model: Path) -> None:
    recipe = load_recipe()
    hashes = {fingerprint(files(model), recipe, None)}
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    hashes.add(fingerprint(files(model), recipe, None))
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config + "\n")
    hashes.add(fingerprint(files(model), recipe, None))
    assert len(hashes) == 3


def test_only_files_that_are_read_count(model: Path) -> None:
    """A stray shard of an earlier save makes no other run."""
    one = fingerprint(files(model), load_recipe(), None)
    shutil.copy(model / "model.safetensors", model / "model-00002-of-00002.safetensors")
    assert fingerprint(files(model), load_recipe(), None) == one


def test_recipe_text_and_version_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe()
    hashes = [
        fingerprint(files(model), recipe, None),
        fingerprint(files(model), recipe, "abc"),
        fingerprint(files(model), load_recipe(seed=1), None),
        fingerprint(files(model), load_recipe(overrides={"lm_head": {"dense": True}}), None),
    ]
    monkeypatch.setattr(module, "version", lambda name: "999.0")
    hashes.append(fingerprint(files(model), recipe, None))
    assert len(set(hashes)) == len(hashes)
