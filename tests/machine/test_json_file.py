"""JSON from elsewhere: what Python reads of plain JSON, and one reason for everything else."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstack import UserError
from bitstack.machine.json_file import DEEPEST, parse_json, read_json
from damage import make_pipe

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20)
SCALARS |= st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)
)


@given(VALUES, st.booleans())
def test_plain_json_is_what_python_reads(value: object, ascii: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii).encode("utf-8", "strict")) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):  # and no other error
        parse_json(data)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ("NaN", "the number NaN"),
        ("[-Infinity]", "the number -Infinity"),
        ("1e999", "the number 1e999"),
        ("1" * 5000, "a number of 5000 digits"),
        ('"\\ud800"', "surrogates not allowed"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"more than {DEEPEST} lists"),
        ("[" * 1_000_000, f"more than {DEEPEST} lists"),
    ],
)
def test_what_is_not_taken(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text.encode())


def test_brackets_in_strings_are_no_depth() -> None:
    text = {"template": "[{" * 500 + '"\\'}
    assert parse_json(json.dumps(text).encode()) == text
    assert parse_json(("[" * DEEPEST + "]" * DEEPEST).encode())


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text('{"a": 1}')
    assert read_json(path, 8) == {"a": 1}
    with pytest.raises(UserError, match=r"some\.json: damaged \(more than 7 bytes\); copy it"):
        read_json(path, 7)
    with pytest.raises(UserError, match=r"none\.json: damaged \(No such file"):
        read_json(tmp_path / "none.json", 8)
    make_pipe(tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"pipe\.json: damaged \(it is no regular file\)"):
        read_json(tmp_path / "pipe.json", 8)
