"""Texts of every kind become the same documents; what cannot be read is named.

Also covers `original.rows`.
"""

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from text_files import jsonl, write

from bitstack.errors import UserError
from bitstack.original.documents import read_documents


def documents(source: Path | str) -> list[str]:
    return list(read_documents(str(source)))


def test_a_text_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    content = "Zwölf\r\nBoxkämpfer\n\n\tjagen 🦊 \n"
    assert documents(write(tmp_path / "a.txt", content)) == [content]
    assert documents(write(tmp_path / "a.md.gz", gzip.compress(content.encode()))) == [content]
    assert documents(write(tmp_path / "bom", "\ufeff" + content)) == [content]


def test_a_folder_is_its_text_files_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a" / "deep" / "z.txt.gz", gzip.compress(b"first"))
    jsonl(tmp_path / "c.jsonl", [{"text": "third"}, {"text": "fourth"}])
    write(tmp_path / "image.png", b"\x89PNG\x00\xff")
    write(tmp_path / ".git" / "config", "hidden")
    write(tmp_path / "empty.txt", " \n")
    assert documents(tmp_path) == ["first", "second", "third", "fourth"]


def test_jsonl_fields(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "body": "y"}, {"text": "z", "body": "w"}])
    write(path, path.read_text().replace("\n", "\n\n"))  # blank lines are no documents
    assert documents(path) == ["x", "z"]
    assert documents(f"{path}:body") == ["y", "w"]
    packed = write(tmp_path / "b.jsonl.gz", gzip.compress(path.read_bytes()))
    assert documents(f"{packed}:body") == ["y", "w"]
    assert documents(jsonl(tmp_path / "c.jsonl", [{"text": "a\ud800"}])) == ["a?"]


def test_jsonl_errors_name_the_line(tmp_path: Path) -> None:
    broken = write(tmp_path / "a.jsonl", '{"text": "fine"}\n{"text": \n')
    with pytest.raises(UserError, match=r"a\.jsonl line 2: broken JSON"):
        documents(broken)
    with pytest.raises(UserError, match="line 1: not a JSON object"):
        documents(write(tmp_path / "b.jsonl", "[1]\n"))
    no_field = jsonl(tmp_path / "c.jsonl", [{"body": "x", "n": 1}])
    with pytest.raises(UserError, match="line 1: no text in field 'text'; fields with text: body"):
        documents(no_field)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.txt", "does not exist"),
        (lambda folder: f"{folder}/none.jsonl:body", "does not exist"),
        (lambda folder: write(folder / "a.txt", " \n\t"), "holds no text"),
        (lambda folder: write(folder / "a.jsonl", "\n"), "holds no text"),
        (lambda folder: folder, "holds no text"),
        (lambda folder: write(folder / "a.txt", b"caf\xe9"), "not UTF-8 text \\(byte 3\\)"),
        (lambda folder: write(folder / "a.gz", b"plain"), "cannot be read"),
        (lambda folder: write(folder / "a.gz", gzip.compress(b"x" * 99)[:-12]), "cannot be read"),
        (lambda folder: write(folder / "a.txt", b"a\0b"), "holds zero bytes"),
        (lambda folder: write(folder / "a.txt", b"\xff\xfea"), "not UTF-16"),
        (lambda folder: write(folder / "a.json", '{"text": "x"}'), "not a JSON array"),
        (lambda folder: write(folder / "a.json", "[1]"), "a.json entry 1: not a JSON object"),
        (lambda folder: write(folder / "a.json", "["), "broken JSON"),
        (lambda folder: write(folder / "a.json", "[" * 100_000), "broken JSON"),
        (lambda folder: "hf:", "hf:DATASET"),
        (lambda folder: "hf:a:b:c:d", "hf:DATASET"),
    ],
)
def test_unusable_sources(tmp_path: Path, make: Callable[[Path], Path | str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        documents(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_hub_data_sets_are_streamed(tmp_path: Path) -> None:
    """A local data set stands in for one of the Hub: the same library reads both."""
    rows = [{"text": "first", "body": "other"}, {"text": "second", "body": "more"}]
    jsonl(tmp_path / "train.jsonl", list(rows))
    assert documents(f"hf:{tmp_path}") == ["first", "second"]
    assert documents(f"hf:{tmp_path}:default:body") == ["other", "more"]
    assert documents(f"hf:{tmp_path}::body") == ["other", "more"]
    with pytest.raises(UserError, match="no text in field 'title'; fields with text: body, text"):
        documents(f"hf:{tmp_path}::title")
    with pytest.raises(UserError, match="cannot be read"):
        documents(f"hf:{tmp_path}:unknown")


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("cannot\nreach the Hub")

    logger = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(logger, "level", logging.WARNING)  # whatever ran before has set
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(UserError, match=r"'hf:some/set'.*cannot reach the Hub.*network") as caught:
        documents("hf:some/set")
    assert "\n" not in str(caught.value)
    assert logger.level == logging.WARNING  # quiet only meanwhile


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be", "utf-8-sig"])
def test_other_encodings_are_known_by_their_mark(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    content = f"{mark}naïve café\r\n".encode(encoding)
    path = write(tmp_path / "texts/a.txt", content)
    assert documents(path) == documents(path.parent) == ["naïve café\r\n"]


def test_arrays_of_json(tmp_path: Path) -> None:
    rows = ["plain", {"text": "a field", "body": "b"}, "", {"text": "last", "body": "c"}]
    path = write(tmp_path / "texts/a.json", json.dumps(rows))
    assert documents(path) == documents(path.parent) == ["plain", "a field", "last"]
    assert documents(f"{path}:body") == ["plain", "b", "c"]
    settings = write(tmp_path / "texts/b.json", '{"compact": true}')
    assert documents(path.parent) == [*documents(path), settings.read_text()]
    assert documents(write(tmp_path / "c.json", '["a\\ud800"]')) == ["a?"]
    packed = write(tmp_path / "b.json.gz", gzip.compress(path.read_bytes()))
    assert documents(packed) == documents(path)


CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning"}]


def test_chats_are_written_as_the_caller_likes(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"messages": CHAT}, {"text": "x", "messages": CHAT}])
    assert documents(path) == ["Hello\n\nGood morning", "x"]
    named = read_documents(str(path), lambda chat: " ".join(m["role"] for m in chat))
    assert list(named) == ["user assistant", "x"]
    assert list(read_documents(str(path), lambda chat: None)) == documents(path)
    assert documents(f"{path}:messages") == ["Hello\n\nGood morning"] * 2
    with pytest.raises(UserError, match="no text in field 'text'"):
        documents(jsonl(tmp_path / "b.jsonl", [{"messages": [{"role": "user"}]}]))
