"""The journal: whole entries or none, of one run only."""

import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from bitstack.container import journal as work
from bitstack.container.journal import Journal, recorded_fingerprint
from bitstack.container.manifest import FOLDER
from bitstack.errors import UserError
from bitstack.machine.files import disk_errors

TENSORS = {"a.plane_1": torch.arange(6, dtype=torch.uint8), "a.scale_1": torch.ones(3).half()}


def test_entries_survive_the_process(tmp_path: Path) -> None:
    Journal(tmp_path, "run").put("a", TENSORS, {"losses": [0.1, 1e-30]})
    again = Journal(tmp_path, "run")
    assert "a" in again
    assert "b" not in again
    assert again.notes["a"] == {"losses": [0.1, 1e-30]}  # to the last digit
    for name, tensor in TENSORS.items():
        assert torch.equal(again.get(name), tensor)
        assert again.get(name).dtype == tensor.dtype
    again.remove()
    assert not list(tmp_path.iterdir())


def test_names_of_any_matrix(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "run")
    keys = ["model.layers.0.mlp", "model.layers.0", "model.layers.00", "lm_head"]
    for i, key in enumerate(keys):
        journal.put(key, {f"{key}.plane_1": torch.tensor([i])}, {})
    again = Journal(tmp_path, "run")
    assert [int(again.get(f"{key}.plane_1")) for key in keys] == [0, 1, 2, 3]


def test_a_view_is_stored_as_what_it_shows(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "run")
    journal.put("a", {"x": torch.arange(12).view(3, 4).T}, {})
    assert torch.equal(journal.get("x"), torch.arange(12).view(3, 4).T)


def test_a_file_is_opened_once_while_files_are_kept_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, opened = Journal(tmp_path, "a"), []
    journal.put("x", {"x.0": torch.arange(3), "x.1": torch.arange(4)}, {})
    original = work.safe_open

    def counted(file: Path, **kwargs: str) -> object:
        opened.append(file)
        return original(file, **kwargs)

    monkeypatch.setattr(work, "safe_open", counted)
    with journal.files_kept_open():
        tensors = [journal.get(name) for name in ("x.0", "x.1", "x.0")]
    assert [len(tensor) for tensor in tensors] == [3, 4, 3]
    assert len(opened) == 1
    journal.put("x", {"x.0": torch.arange(5)}, {})
    assert len(journal.get("x.0")) == 5


def test_another_run_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path, "run").put("a", TENSORS, {})
    with pytest.raises(UserError, match="unfinished run with another model, recipe or") as error:
        Journal(tmp_path, "other")
    assert str(tmp_path) in str(error.value)


def test_files_of_a_stage_are_those_of_its_run(tmp_path: Path) -> None:
    """They say nothing of the run themselves, so another run must not take them for its own."""
    stage = Journal(tmp_path, "run").path / "spill"
    stage.mkdir()
    (stage / "state").write_text("x")
    with pytest.raises(UserError, match="unfinished run with another model"):
        Journal(tmp_path, "other")
    Journal(tmp_path, "run")
    assert (stage / "state").exists()
    (tmp_path / FOLDER / "run.json").write_text("{")  # nobody vouches for them
    Journal(tmp_path, "other")
    assert not stage.exists()
    assert recorded_fingerprint(tmp_path) == "other"


def test_a_run_that_has_finished_nothing_gives_way(tmp_path: Path) -> None:
    Journal(tmp_path, "run")
    Journal(tmp_path, "other").put("a", TENSORS, {})
    assert recorded_fingerprint(tmp_path) == "other"
    with pytest.raises(UserError, match="unfinished run with another model"):
        Journal(tmp_path, "run")


def test_an_older_journal_is_known_by_its_entries(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "run")
    journal.put("a", TENSORS, {})
    (journal.path / "spill").mkdir()
    (journal.path / "run.json").unlink()
    with pytest.raises(UserError, match="unfinished run with another model"):
        Journal(tmp_path, "other")
    assert "a" in Journal(tmp_path, "run")
    assert (journal.path / "spill").is_dir()
    assert recorded_fingerprint(tmp_path) == "run"


def test_whose_work_it_was_is_known_until_all_else_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, gone = Journal(tmp_path, "run"), []
    journal.put("a", TENSORS, {})
    (journal.path / "clock.json").write_text("{}")
    unlink = os.unlink

    def noted(path: Any, **kwargs: Any) -> None:
        gone.append(Path(path).name)
        unlink(path, **kwargs)

    monkeypatch.setattr(os, "unlink", noted)
    journal.remove()
    assert sorted(gone[:-1]) == ["a.safetensors", "clock.json"]
    assert gone[-1] == "run.json"
    assert not journal.path.exists()


def test_a_file_that_vanishes_or_is_damaged_is_made_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "run")
    journal.put("a", TENSORS, {})
    file = journal.path / "a.safetensors"
    whole = file.read_bytes()
    for broken in (None, whole[:-3]):
        file.unlink()
        if broken:
            file.write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.safetensors: cannot be read .*made anew"):
            journal.get("a.plane_1")
        assert not file.exists()
        file.write_bytes(whole)


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "run")

    def fail(tensors: object, path: Path, *rest: object) -> NoReturn:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(work, "save_file", fail)
    with pytest.raises(UserError, match=r"cannot write \(No space left on device\); free disk"):
        journal.put("a", TENSORS, {})
    assert "a" not in journal
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["run.json"]


def test_half_written_files_are_done_again(tmp_path: Path) -> None:
    """A killed process leaves a partial file; a dying disk leaves a damaged one."""
    journal = Journal(tmp_path, "run")
    journal.put("a", TENSORS, {})
    journal.put("b", {"b.plane_1": torch.zeros(4)}, {})
    (tmp_path / FOLDER / "c.partial").write_bytes(b"half")
    damaged = tmp_path / FOLDER / "b.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    again = Journal(tmp_path, "run")
    assert set(again.notes) == {"a"}
    assert not damaged.exists()


def test_disk_errors_pass_on_what_is_no_disk_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path / "x"):
        raise ZeroDivisionError
