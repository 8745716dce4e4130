"""A text becomes the ids that its tokenizer gives, and windows that never overlap."""

import hashlib
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from text_files import jsonl, write
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


TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def test_chats_are_tokenised_in_the_models_template(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    path = jsonl(tmp_path / "a.jsonl", [{"messages": chat}])

    def read() -> str:
        return str(tokenizer.decode(text.token_ids(str(path), tokenizer).ids))

    assert read() == f"{BOS}Hi\n\nYes"
    tokenizer.chat_template = TEMPLATE
    assert read() == f"{BOS}[user]Hi[assistant]Yes"
    tokenizer.chat_template = "{{ raise_exception('only one message') }}"
    assert read() == f"{BOS}Hi\n\nYes"


def test_a_template_that_names_today_gives_the_same_text_on_every_day(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "Hi"}]}])
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
    ids = text.token_ids(str(path), tokenizer).ids
    assert str(tokenizer.decode(ids)) == f"{BOS}26 Jul 2024 Hi"
