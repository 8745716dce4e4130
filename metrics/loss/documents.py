"""Documents as evaluators see them: passages of so many bytes, token ids, a start token.

Reading files is `bitstack.text`'s business.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.original.text import has_rows, read_documents

ENCODED_AT_ONCE = 256
TEXT_PASSAGE = 4096  # bytes; with most tokenizers about 1024 tokens


def read_texts(source: str, *, max_bytes: int | None = None) -> list[str]:
    """The documents of a text source, at most about `max_bytes` of them (UTF-8).

    The lines of a `.jsonl` and the rows of a data set are documents, and the first are taken. A
    text file is cut into passages of 4096 bytes, so that there is something to draw for an
    interval, and the same passages for every tokenizer; they are taken at equal distances.
    Raises UserError as `read_documents`, or if `max_bytes` is below 1.
    """
    if max_bytes is not None and max_bytes < 1:
        raise UserError(f"max bytes is {max_bytes}; it must be at least 1, or left out for all")
    if has_rows(source):
        return list(_first(read_documents(source), max_bytes))
    found = [piece for text in read_documents(source) for piece in passages(text, TEXT_PASSAGE)]
    count = len(found) if max_bytes is None else min(len(found), -(-max_bytes // TEXT_PASSAGE))
    return [found[i * len(found) // count] for i in range(count)]


def _first(texts: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    """Texts up to the one that brings `max_bytes`."""
    size = 0
    for text in texts:
        if max_bytes is not None and size >= max_bytes:
            return
        yield text
        size += len(text.encode())


def texts_sha256(texts: Iterable[str]) -> str:
    """SHA-256 of documents, a zero byte between two."""
    return hashlib.sha256(b"\0".join(text.encode() for text in texts)).hexdigest()


def encode(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    special: bool = True,
    max_length: int | None = None,
) -> list[list[int]]:
    """Token ids of each document, with the tokenizer's own special tokens unless `special` is
    False; cut by the tokenizer at `max_length` tokens, special ones included, if it is given."""
    options: dict[str, Any] = {"add_special_tokens": special, "verbose": False}
    if max_length is not None:
        options |= {"truncation": True, "max_length": max_length}
    texts = list(documents)
    found: list[list[int]] = []
    for first in range(0, len(texts), ENCODED_AT_ONCE):
        some = texts[first : first + ENCODED_AT_ONCE]
        # Long texts are wanted, so the tokenizer's warning about them is not.
        coded: Any = tokenizer(some, **options)
        found += coded["input_ids"]
    return found


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before a text: BOS, or EOS where there is none (as GPT-2 has it).

    Raises UserError if the tokenizer has neither: the first token of a text would have no context.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise UserError(
        "tokenizer has neither a BOS nor an EOS token: the first token of a text cannot be scored; "
        "set bos_token in tokenizer_config.json"
    )


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary: figures per token compare only where it is the same."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def unknown_tokens(tokenizer: PreTrainedTokenizerBase, ids: Iterable[Iterable[int]]) -> int:
    """How often text was lost to the tokenizer's unknown token."""
    unknown = tokenizer.unk_token_id
    return 0 if unknown is None else sum(token == unknown for one in ids for token in one)


def passages(text: str, max_bytes: int) -> Iterator[str]:
    """`text` in pieces of at most `max_bytes` UTF-8 bytes, cut between characters.

    Raises UserError if `max_bytes` is below 4, the longest character.
    """
    if max_bytes < 4:
        raise UserError(f"passage of {max_bytes} bytes: at least 4 are needed for one character")
    data = text.encode()
    start = 0
    while start < len(data):
        end = min(start + max_bytes, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        yield data[start:end].decode()
        start = end


def check_tokenizers(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, texts: Sequence[str]
) -> None:
    """UserError unless both tokenizers have one vocabulary and give the same ids for `texts`."""
    if teacher is student:
        return
    a, b = teacher.get_vocab(), student.get_vocab()
    if a != b:
        raise UserError(
            f"tokenizers differ: {len(a)} tokens in the teacher's, {len(b)} in the student's, "
            f"{len(a.items() & b.items())} in common; a gap is defined for one tokenizer only"
        )
    if encode(teacher, texts) != encode(student, texts):
        raise UserError("tokenizers differ: one vocabulary, but other tokens for the same text")
