"""A command's model is a container or an original, told apart by its files.

Also covers `container.recognition`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitstack import UserError
from bitstack.container.manifest import FOLDER, MANIFEST, read_manifest
from bitstack.container.recognition import is_container
from bitstack.live.opening import open_model

Folder = Callable[..., Path]


@pytest.fixture
def container(stacked: Folder) -> Path:
    return stacked("llama-tied", calibration="none")


def test_sizes_of_a_container_and_of_its_original(container: Path, pico_model: Folder) -> None:
    packed = open_model(container, budget="50%", device="cpu")
    original = open_model(pico_model("llama-tied"), device="cpu")
    assert packed.original_bytes == original.original_bytes == original.resident_bytes
    assert packed.budget_bytes == original.original_bytes // 2 >= packed.resident_bytes
    assert packed.resident_bytes == packed.model.bitstack.resident_bytes
    assert packed.bits_per_weight == packed.model.bitstack.bits_per_weight
    assert packed.parameters == original.parameters == original.model.num_parameters()
    assert original.bits_per_weight == 32
    assert (original.budget_bytes, original.model.dtype) == (None, torch.float32)
    assert not original.model.training
    assert packed.tokenizer("boats") == original.tokenizer("boats")


def test_a_level_has_no_budget(container: Path) -> None:
    opened = open_model(container, level=2, device="auto")
    assert opened.budget_bytes is None
    assert set(opened.model.bitstack.levels) == {2}


def test_what_is_a_container(container: Path, pico_model: Folder, tmp_path: Path) -> None:
    """Also one that was interrupted, or has lost its manifest or its config."""
    assert is_container(container)
    assert not is_container(pico_model("llama-tied"))
    assert not is_container(tmp_path / "nowhere")
    (tmp_path / "interrupted" / FOLDER).mkdir(parents=True)
    assert is_container(tmp_path / "interrupted")
    without = shutil.copytree(container, tmp_path / "without")
    (without / MANIFEST).unlink()
    assert is_container(without)
    (without / "config.json").write_text(json.dumps({"quantization_config": "?"}))
    assert not is_container(without)
    (without / "config.json").unlink()
    assert not is_container(without)
    read_manifest(container).write(without)
    assert is_container(without)


def test_what_cannot_be_opened(container: Path, pico_model: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes no budget or level; compress it first"):
        open_model(pico_model("llama-tied"), level=1)
    with pytest.raises(UserError, match="no such folder"):
        open_model(tmp_path / "nowhere", budget="50%")
    with pytest.raises(UserError, match="device 'tpu' is unknown"):
        open_model(container, device="tpu")
    broken = shutil.copytree(container, tmp_path / "broken")
    (broken / MANIFEST).unlink()
    with pytest.raises(UserError, match="not a finished bitstack container"):
        open_model(broken)
