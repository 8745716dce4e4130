"""`save_pretrained` writes a container of what is held, and never over another."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitstack import UserError, load, resize
from bitstack.container.manifest import MANIFEST, read_manifest
from bitstack.container.verification import check_files

Folder = Callable[..., Path]


@pytest.fixture
def model(stacked: Folder) -> Any:
    return load(stacked("qwen3", calibration="none"), "5bpw")


def test_what_is_saved_is_a_smaller_container(model: Any, tmp_path: Path) -> None:
    """Whole by its checksums, cut along the same order, with all smaller models in it."""
    model.save_pretrained(tmp_path)
    whole, saved = model.bitstack.manifest, read_manifest(tmp_path)
    check_files(tmp_path, saved)
    assert [e.levels for e in saved.stacks] == model.bitstack.levels
    assert saved.order == whole.order[: len(saved.order)]
    assert saved.budgets.total_bytes == model.bitstack.resident_bytes
    ids = torch.tensor([[5, 9, 80, 7]])
    small, again = load(tmp_path, "3bpw"), load(tmp_path)
    resize(model, "3bpw")
    with torch.no_grad():
        assert torch.equal(small(ids).logits, model(ids).logits)
    resize(again, "3bpw")
    assert again.bitstack.levels == model.bitstack.levels


def test_levels_off_the_order(stacked: Folder, tmp_path: Path) -> None:
    model = load(stacked("qwen3", calibration="none"), level=3)
    model.save_pretrained(tmp_path)
    assert set(load(tmp_path).bitstack.levels) == {3}


def test_changed_dense_weights_are_saved(model: Any, tmp_path: Path) -> None:
    model.model.norm.weight.data.mul_(1.5)
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path).model.norm.weight, model.model.norm.weight)


def test_what_save_refuses(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already holds a container"):
        model.save_pretrained(model.bitstack.folder)
    with pytest.raises(UserError, match="variant fp16: a container is always bitstack"):
        model.save_pretrained(tmp_path / "a", variant="fp16")
    with pytest.raises(UserError, match="push_to_hub: save the model first"):
        model.save_pretrained(tmp_path / "a", push_to_hub=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; name a folder"):
        model.save_pretrained(tmp_path / "file")
    model.save_pretrained(tmp_path / "a", is_main_process=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_container_that_is_gone(stacked: Folder, tmp_path: Path) -> None:
    """Scale sets of lower levels lie only there: nothing is written that looks whole."""
    container = shutil.copytree(stacked("qwen3", calibration="none"), tmp_path / "container")
    model = load(container, "5bpw")
    shutil.rmtree(container)
    with pytest.raises(UserError, match="no such folder"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / MANIFEST).exists()
