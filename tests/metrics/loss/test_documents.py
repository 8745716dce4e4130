"""Passages, token ids and vocabularies of documents."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import pico
from bitstack.errors import UserError
from bitstack.metrics.loss.documents import (
    encode,
    fingerprint,
    passages,
    read_texts,
    start_token,
    unknown_tokens,
    vocabulary_size,
)


@settings(deadline=None)
@given(st.text(max_size=80), st.integers(4, 20))
def test_passages_are_the_text_in_short_pieces(text: str, size: int) -> None:
    pieces = list(passages(text, size))
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= size for piece in pieces)
    assert all(len(a.encode()) > size - 4 for a in pieces[:-1])


def test_a_passage_holds_any_character() -> None:
    with pytest.raises(UserError, match="at least 4"):
        list(passages("text", 3))


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
def test_encoding_many_is_encoding_each(texts: list[str]) -> None:
    tokenizer = pico.tokenizer()
    assert encode(tokenizer, texts) == [tokenizer(text)["input_ids"] for text in texts]


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(1, 20))
def test_encoding_is_cut_at_the_length(text: str, length: int) -> None:
    tokenizer = pico.tokenizer()
    assert encode(tokenizer, [text], max_length=length)[0] == tokenizer(text)["input_ids"][:length]
    assert encode(tokenizer, [text])[0] == tokenizer(text)["input_ids"]  # no setting is left behind


def words(**special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "<e>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def test_the_start_token_is_bos_then_eos() -> None:
    assert start_token(pico.tokenizer()) == 0
    assert start_token(words(eos_token="<e>")) == 2
    with pytest.raises(UserError, match="neither a BOS nor an EOS"):
        start_token(words())


def test_unknown_tokens_are_counted() -> None:
    assert unknown_tokens(words(), [[0, 1], [0]]) == 2
    assert unknown_tokens(pico.tokenizer(), [[0, 1]]) == 0


def test_vocabularies_have_fingerprints() -> None:
    other = words(eos_token="<e>")
    assert fingerprint(other) == fingerprint(words()) != fingerprint(pico.tokenizer())


def test_a_text_file_is_cut_and_lines_are_not(tmp_path: Path) -> None:
    long = pico.TEXT * 20
    (tmp_path / "text.txt").write_text(long)
    pieces = read_texts(str(tmp_path / "text.txt"))
    assert "".join(pieces) == long
    assert [len(piece) for piece in pieces[:-1]] == [4096] * (len(long) // 4096)
    half = read_texts(str(tmp_path / "text.txt"), max_bytes=4097)
    assert half == [pieces[0], pieces[len(pieces) // 2]]
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": long}) + "\n" + '{"text": "b"}\n')
    assert read_texts(str(tmp_path / "text.jsonl")) == [long, "b"]
    assert read_texts(str(tmp_path / "text.jsonl"), max_bytes=5) == [long]
    with pytest.raises(UserError, match="max bytes is 0"):
        read_texts(str(tmp_path / "text.txt"), max_bytes=0)


def test_a_vocabulary_with_gaps_reaches_to_its_highest_id() -> None:
    """Logits cut to the number of tokens would lack those of the last ids."""
    backend = Tokenizer(WordLevel({"[UNK]": 0, "river": 305}, unk_token="[UNK]"))
    sparse = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert len(sparse) == 2
    assert vocabulary_size(sparse) == 306
    assert vocabulary_size(pico.tokenizer()) == pico.VOCABULARY
