"""A folder for a result is new, empty, or marked as one to go on in, and can be written."""

import os
from pathlib import Path

import pytest

from bitstack.errors import UserError
from bitstack.machine.new_folder import check_new_folder, existing_folder


def test_folders_that_can_be_made(tmp_path: Path) -> None:
    check_new_folder(tmp_path / "a" / "b")
    check_new_folder(tmp_path)  # empty
    (tmp_path / "mark").touch()
    check_new_folder(tmp_path, marks=["other", "mark"])


def test_folders_that_are_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"--output .*file: is a file; name a folder"):
        check_new_folder(tmp_path / "file")
    with pytest.raises(UserError, match=r"--to .*: is not empty; name a new folder"):
        check_new_folder(tmp_path, option="--to", marks=["mark"])
    with pytest.raises(UserError, match=r"inside: .*file is a file; name another folder"):
        check_new_folder(tmp_path / "file" / "inside")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=r"--output .*: cannot write \(permission denied\)"):
        check_new_folder(tmp_path / "a" / "b")


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert existing_folder(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "a").mkdir()
    assert existing_folder(tmp_path / "a" / "b") == tmp_path / "a"
