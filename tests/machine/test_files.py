"""Result files appear whole or not at all, and hold only what JSON has.

Also covers `errors`: what a user can cause is a UserError of one line.
"""

import errno
import json
import math
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from bitstack.errors import UserError
from bitstack.machine.files import disk_errors, json_text, write_json, write_text

DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [finite(value) for value in data]
    return data if not isinstance(data, float) or math.isfinite(data) else None


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


@given(DATA)
def test_json_is_the_data_with_null_for_what_json_lacks(data: Any) -> None:
    text = json_text(data)
    assert text.endswith("\n")
    assert json.loads(text, parse_constant=refuse) == finite(data)


def test_json_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_json(file, {"loss": (1.5, math.inf, math.nan), "unit": "Größe"})
    assert file.read_bytes() == json_text({"loss": [1.5, None, None], "unit": "Größe"}).encode()
    assert "Größe" in file.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_failing_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "result.json"
    write_json(file, "old")

    def fail(self: Path, *args: Any, **kwargs: Any) -> NoReturn:
        self.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(UserError, match=r"--json \S+: cannot write \(No space left on device\)"):
        write_json(file, "new")
    monkeypatch.undo()
    assert json.loads(file.read_text()) == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("target", ["missing/result.md", "folder"])
def test_a_target_that_is_no_file_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"--output \S+{target}: cannot write") as error:
        write_text(tmp_path / target, "text", option="--output")
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ValueError)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EROFS, "Read-only file system"), SafetensorError("I/O error\nsecond line")],
)
def test_a_disk_error_removes_half_a_file(tmp_path: Path, error: Exception) -> None:
    file, other = tmp_path / "half", tmp_path / "other"
    other.write_text("kept")
    reason = "Read-only file system" if isinstance(error, OSError) else "I/O error"
    file.write_text("half")
    match = rf"cannot write \(.*{reason}\); free disk"
    with pytest.raises(UserError, match=match) as caught, disk_errors(file):
        raise error
    assert str(tmp_path) in str(caught.value)
    assert "second line" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [other]


def test_without_a_disk_error_the_file_stays(tmp_path: Path) -> None:
    with disk_errors(tmp_path / "whole"):
        (tmp_path / "whole").write_text("all")
    assert (tmp_path / "whole").read_text() == "all"


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path / "x"):
        raise ZeroDivisionError
