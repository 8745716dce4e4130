"""Texts of every kind become the same documents and token ids; what cannot be read is named."""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bitstack.errors import UserError
from bitstack.original import text

BOS = "<s>"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; documents begin with BOS; long texts would be warned about."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {BOS: 0} | {letter: i for i, letter in enumerate(alphabet, start=1)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, model_max_length=8)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(path: Path, rows: list[object]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def documents(source: Path | str) -> list[str]:
    return list(text.read_documents(str(source)))


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


def test_tokens_of_one_file(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    content = "Zwölf\nBoxkämpfer"
    path = write(tmp_path / "a.txt", content)
    tokens = text.token_ids(str(path), tokenizer)
    assert tokens.ids.dtype == torch.int64
    assert tokens.ids.tolist() == tokenizer(content)["input_ids"]
    assert tokens.ids[0] == tokenizer.bos_token_id
    assert tokens.bytes == len(content.encode()) == len(tokens.ids) - 1
    assert tokens.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_long_texts_are_not_warned_about(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("transformers").addHandler(caplog.handler)
    caplog.set_level(logging.WARNING, "transformers")  # a command tested before may have lowered it
    try:
        text.token_ids(str(write(tmp_path / "a.txt", "x" * 100)), tokenizer)
        assert not caplog.records
        tokenizer("x" * 100)  # the warning exists, and this is how it would have shown
        assert "longer than" in caplog.text
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)


def test_documents_are_tokenised_apart(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "ab"}, {"text": "cd"}])
    tokens = text.token_ids(str(path), tokenizer)
    expected = tokenizer("ab")["input_ids"] + tokenizer("cd")["input_ids"]
    assert tokens.ids.tolist() == expected
    assert tokens.bytes == 4
    joined = jsonl(tmp_path / "b.jsonl", [{"text": "abcd"}])
    assert tokens.sha256 != text.token_ids(str(joined), tokenizer).sha256


def test_a_limit_stops_reading(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "abc"}, {"text": "def"}])
    write(path, path.read_text() + "never read, so never found broken")
    whole = text.token_ids(str(path), tokenizer, max_tokens=8)
    assert whole.ids.tolist() == tokenizer("abc")["input_ids"] + tokenizer("def")["input_ids"]
    cut = text.token_ids(str(path), tokenizer, max_tokens=6)
    assert torch.equal(cut.ids, whole.ids[:6])
    assert cut.bytes == 4  # abc, BOS, d
    with pytest.raises(UserError, match="line 3"):
        text.token_ids(str(path), tokenizer, max_tokens=9)
    with pytest.raises(UserError, match="max tokens is 0"):
        text.token_ids(str(path), tokenizer, max_tokens=0)


@given(
    size=st.integers(1, 500),
    length=st.integers(1, 60),
    count=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_windows_never_overlap(size: int, length: int, count: int, seed: int) -> None:
    ids = torch.arange(size)
    if size < length:
        with pytest.raises(UserError, match=f"{size} tokens found, {length} needed"):
            text.windows(ids, length, count=count, seed=seed)
        return
    windows = text.windows(ids, length, count=count, seed=seed)
    assert windows.shape == (min(count, size // length), length)
    assert torch.equal(windows, windows[:, :1] + torch.arange(length))
    assert (windows[1:, 0] > windows[:-1, -1]).all()
    gaps = windows[1:, 0] - windows[:-1, 0]
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert torch.equal(windows, text.windows(ids, length, count=count, seed=seed))


def test_windows_span_the_text_and_follow_the_seed() -> None:
    ids = torch.arange(1000)
    windows = text.windows(ids, 10, count=10, seed=0)
    assert windows[0, 0] < 100
    assert windows[-1, 0] >= 900
    starts = {int(text.windows(ids, 10, count=10, seed=seed)[0, 0]) for seed in range(50)}
    assert len(starts) > 25
    assert max(starts) <= 90
