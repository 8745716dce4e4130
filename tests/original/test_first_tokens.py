"""The first tokens of a long text are those of the whole text, and cost no more than they must."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

import pico
from bitstack.original.first_tokens import (
    CHARACTERS,
    MARGIN,
    beginning_with,
    first_tokens,
    start_id,
)

TEXT = pico.TEXT * 100


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.read = tokenizer, 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.read += len(text)
        return self.tokenizer(text, **options)


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 3000), start=st.integers(0, 300))
def test_they_are_those_of_the_whole_text(count: int, start: int) -> None:
    text = TEXT[start:]
    assert (
        first_tokens(text, pico.tokenizer(), count) == pico.tokenizer()(text)["input_ids"][:count]
    )


@pytest.mark.parametrize("count", [1, 64, 1000])
def test_a_long_text_is_not_read_to_its_end(count: int) -> None:
    tokenizer = Counting(pico.tokenizer())
    first_tokens(TEXT * 3, tokenizer, count)
    assert tokenizer.read <= 3 * (MARGIN + CHARACTERS * count)


def test_tokens_longer_than_expected_are_found_too() -> None:
    """A text of which little becomes a token: white space that the tokenizer drops."""

    def words(text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}

    text = (" " * 1000 + "word") * 500
    assert first_tokens(text, words, 200) == [4] * 200


def test_an_end_token_is_no_part_of_a_beginning() -> None:
    def with_end(text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [*map(ord, text), 0]}

    text = "a" * 100_000
    assert first_tokens(text, with_end, 50) == [97] * 50
    assert first_tokens("ab", with_end, 50) == [97, 98, 0]
    assert first_tokens("ab", with_end, None) == [97, 98, 0]


@pytest.mark.parametrize(("template", "expected"), [("<s> $A", 0), ("$A <s>", None), ("$A", None)])
def test_the_first_token_is_what_the_tokenizer_puts_there(
    template: str, expected: int | None
) -> None:
    backend = Tokenizer(models.BPE({"<s>": 0, "a": 1, "b": 2}, []))
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    assert start_id(tokenizer) == expected


def test_windows_begin_with_it() -> None:
    windows = torch.arange(12).view(3, 4)
    assert torch.equal(beginning_with(windows, None), windows)
    begun = beginning_with(windows, 99)
    assert begun[:, 0].tolist() == [99] * 3
    assert torch.equal(begun[:, 1:], windows[:, 1:])
    assert windows[0, 0] == 0
