"""The general calibration text: how it is mixed, that it repeats, and what is shipped."""

import gzip
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitstack import recipes
from bitstack.errors import UserError

ROOT = Path(__file__).parents[2]
SLICE = 100_000  # characters, of which each must be a mixture


@pytest.fixture(scope="module")
def script() -> Callable[[str], Any]:
    """`script(name)` imports a module of scripts/."""
    return importlib.import_module


@pytest.fixture(scope="module")
def books(script: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the books, with a few paragraphs in each."""
    module, folder = script("general_text.books"), tmp_path_factory.mktemp("shared")

    def book(title: str) -> str:
        body = "\n\n".join(f"Paragraph {i} of {title}." for i in range(40))
        return f"# Title: {title}\n\n## Author: A\n\n-------\n\n{body}\n"

    def write(path: str, content: bytes) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

    classics = module.BETWEEN.join(map(book, [*module.IN_CLASSICS, "Another"]))
    write(module.CLASSICS, gzip.compress(classics.encode()))
    for name in module.IN_BOOKS:
        write(f"{module.BOOKS}/{name}.md", book(name).encode())
    write(module.PLAYS, "\n\n".join(f"KING:\nLine {i}." for i in range(60)).encode())
    poems = [{"title": f"詩{i}", "author": "某", "paragraphs": ["春眠"]} for i in range(60)]
    for name in ("tang.10000", "song.42000"):
        write(module.POEMS.format(name), json.dumps(poems).encode())
    return folder


def test_pieces_are_whole_paragraphs_from_all_over(script: Callable[[str], Any]) -> None:
    module = script("general_text.pieces")
    text = "\n\n\n".join(f"{i} " + "x" * 500 for i in range(100))
    pieces = module.spread(text, 4)
    assert [piece.split()[0] for piece in pieces] == ["12", "37", "62", "87"]
    for piece, size in zip(pieces, module.SIZES, strict=True):
        assert size <= len(piece) < size + 510
    assert "\n\n".join(module.whole(text, 900)).split() == text.split()


def test_every_beginning_is_a_mixture(script: Callable[[str], Any]) -> None:
    mixed = script("make_general_text").mixed
    text = mixed({"a": [f"a{i}" for i in range(40)], "b": [f"b{i}" for i in range(10)]}).split()
    assert sorted(text) == sorted([f"a{i}" for i in range(40)] + [f"b{i}" for i in range(10)])
    for end in range(5, 51, 5):
        assert sum(piece[0] == "b" for piece in text[:end]) == end // 5
    assert [piece for piece in text if piece[0] == "b"] == [f"b{i}" for i in range(10)]


def test_exercises_are_solved_rightly(script: Callable[[str], Any]) -> None:
    sums = [
        line.replace("=", "==")
        for piece in script("general_text.drawn").exercises()
        for line in piece.splitlines()
        if line.count(" = ") == 1 and set(line) <= set("0123456789 +-*=")
    ]
    assert len(sums) > 100
    assert all(eval(line) for line in sums)


def test_every_question_is_asked_once(script: Callable[[str], Any]) -> None:
    module = script("general_text.written")
    asked = [pair.partition("\n")[0] for pair in module.read("questions")]
    text = "\n\n".join(module.conversations())
    assert len(asked) > 50
    assert [text.count(question) for question in asked] == [1] * len(asked)


def test_the_same_sources_give_the_same_bytes(
    script: Callable[[str], Any], books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this project's files, a few stand here for those of the commit, which a copy may lack."""
    project = script("general_text.project")
    monkeypatch.setattr(project, "_files", lambda revision, patterns: {"a.py": "import os\n"})
    for name in ("one.gz", "two.gz"):
        command = ["make_general_text.py", "--shared", str(books), "--output", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", command)
        script("make_general_text").main()
    one = (tmp_path / "one.gz").read_bytes()
    assert one == (tmp_path / "two.gz").read_bytes()
    text = gzip.decompress(one).decode()
    for part in ("Paragraph 5 of Emma.", "KING:", "春眠", "import os", "Answer: ", "Subject: "):
        assert part in text
    assert "of Another." not in text


def test_sources_that_are_not_there_are_one_line(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_general_text.py", "--shared", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        script("make_general_text").main()
    (line,) = capsys.readouterr().err.splitlines()
    assert "train.txt.gz is not there; name the folder" in line
    with pytest.raises(UserError, match="--revision nothing: git does not know this commit"):
        script("general_text.project").code("nothing")


# The shipped text


@pytest.fixture(scope="module")
def shipped() -> str:
    return gzip.decompress(recipes.general_text().read_bytes()).decode()


def test_the_shipped_text_is_a_mixture_from_its_beginning(shipped: str) -> None:
    assert 600_000 < len(shipped) < 1_100_000
    slices = [shipped[i : i + SLICE] for i in range(0, len(shipped) - SLICE, SLICE)]
    assert len(slices) > 5
    kinds = ("\n    return ", ":\n", "，", '"customer"', "\nA: ", "\n```")
    foreign = (" und ", " que ", " der ", " les ", "の", "的", " и ")
    for part in slices:
        assert [kind for kind in kinds if kind not in part] == []
        assert any(word in part for word in foreign)


def test_the_shipped_text_shares_nothing_with_the_held_out_one(shipped: str) -> None:
    held_out = recipes.held_out_text().read_text("utf-8").split("\n\n")
    assert not {part for part in held_out if len(part) > 40} & set(shipped.split("\n\n"))


def test_the_shipped_text_holds_no_mark_of_a_tokenizer_and_no_time(shipped: str) -> None:
    assert [mark for mark in ("<|", "<s>", "</s>", "<unk>", "<pad>") if mark in shipped] == []
    head = recipes.general_text().read_bytes()[:10]
    assert head[3:8] == bytes(5)  # no name, no time


def test_the_shipped_text_is_what_the_script_makes(
    script: Callable[[str], Any], shared: Path, shipped: str
) -> None:
    revision = script("general_text.project").REVISION
    known = subprocess.run(["git", "cat-file", "-e", revision], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip("needs the commit of the project's files, which this copy of the history lacks")
    module = script("make_general_text")
    assert module.mixed(module.kinds(shared, revision)) == shipped
