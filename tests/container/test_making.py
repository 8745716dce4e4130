"""The time of a run is kept beside the container, and only a sound record of it is read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.container.making import MADE, Making, read_making, write_making


def test_a_run_says_how_long_it_took(stacked: Callable[..., Path]) -> None:
    making = read_making(stacked("llama-gqa"))
    assert making is not None
    assert 0 < making.seconds < 600
    assert (making.processes, making.continued) == (1, False)


@pytest.mark.parametrize(
    ("making", "words"),
    [
        (Making(250.2, 1, False), "4 min 10 s"),
        (Making(5.0, 4, False), "5.0 s in 4 processes"),
        (Making(5.0, 1, True), "5.0 s, after an interrupted run whose time is not counted"),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, making: Making, words: str) -> None:
    write_making(tmp_path, making)
    assert read_making(tmp_path) == making
    assert making.words() == words
    assert [file.name for file in tmp_path.iterdir()] == [MADE]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"seconds": -1.0, "processes": 1, "continued": false}',
     '{"seconds": "long", "processes": 1, "continued": false}',
     '{"seconds": 1.0, "processes": 1, "continued": false, "more": 1}'],
)  # fmt: skip
def test_anything_else_is_no_record(tmp_path: Path, content: str) -> None:
    (tmp_path / MADE).write_text(content)
    assert read_making(tmp_path) is None
    (tmp_path / MADE).unlink()
    assert read_making(tmp_path) is None


def test_a_link_that_leads_elsewhere_is_no_record(tmp_path: Path) -> None:
    elsewhere = tmp_path / "other.json"
    elsewhere.write_text(json.dumps({"seconds": 1.0, "processes": 1, "continued": False}))
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / MADE).symlink_to(elsewhere)
    assert read_making(folder) is None
