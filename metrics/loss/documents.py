"""Cuts documents into passages and encodes them, in the same way for every evaluator.

Does not parse files; see `original.text`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.original.documents import has_rows, read_documents

ENCODED_AT_ONCE = 256
TEXT_PASSAGE = 4096  # bytes; with most tokenizers about 1024 tokens


def read_texts(source: str, *, max_bytes: int | None = None) -> list[str]:
    """Returns the documents of a text source.

    Each line of a `.jsonl` file and each row of a data set is a document; with `max_bytes` the
    first ones are taken. A text file is cut into passages of 4096 bytes, which are the same for
    every tokenizer; with `max_bytes` they are taken at equal distances over the file. Many
    passages are needed because a bootstrap interval draws whole documents.

    Args:
        source: Text file, folder, `.jsonl` file or `hf:` data set, as in `original.text`.
        max_bytes: About how many UTF-8 bytes to take; None takes all.

    Raises:
        UserError: as in `read_documents`, or `max_bytes` is below 1.
    """
    if max_bytes is not None and max_bytes < 1:
        raise UserError(f"max bytes is {max_bytes}; it must be at least 1, or left out for all")
    if has_rows(source):
        return list(_first(read_documents(source), max_bytes))
    pieces = [piece for text in read_documents(source) for piece in passages(text, TEXT_PASSAGE)]
    count = len(pieces) if max_bytes is None else min(len(pieces), -(-max_bytes // TEXT_PASSAGE))
    return [pieces[i * len(pieces) // count] for i in range(count)]


def _first(texts: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    """Yields texts until `max_bytes` are reached; the last text is whole."""
    size = 0
    for text in texts:
        if max_bytes is not None and size >= max_bytes:
            return
        yield text
        size += len(text.encode())


def texts_sha256(texts: Iterable[str]) -> str:
    """Returns the SHA-256 of the documents, joined by zero bytes."""
    return hashlib.sha256(b"\0".join(text.encode() for text in texts)).hexdigest()


def encode(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    special: bool = True,
    max_length: int | None = None,
) -> list[list[int]]:
    """Returns the token ids of each document.

    Args:
        tokenizer: The model's tokenizer.
        documents: Texts, each encoded alone.
        special: Add the tokenizer's own special tokens, such as BOS.
        max_length: Tokens at which a document is cut, special ones included; None keeps all.
    """
    options: dict[str, Any] = {"add_special_tokens": special, "verbose": False}
    if max_length is not None:
        options |= {"truncation": True, "max_length": max_length}
    texts = list(documents)
    ids: list[list[int]] = []
    for first in range(0, len(texts), ENCODED_AT_ONCE):
        # Not verbose: the tokenizer would warn of every text longer than the model's positions.
        encoded: Any = tokenizer(texts[first : first + ENCODED_AT_ONCE], **options)
        ids += encoded["input_ids"]
    return ids


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token that stands before a text: BOS, or EOS where there is none, as in GPT-2.

    Raises:
        UserError: the tokenizer has neither, so the first token of a text would have no context.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise UserError(
        "tokenizer has neither a BOS nor an EOS token: the first token of a text cannot be scored; "
        "set bos_token in tokenizer_config.json"
    )


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the SHA-256 of the vocabulary.

    Losses per token compare only between models of the same vocabulary.
    """
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the highest token id and one: more than there are tokens, where ids have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def unknown_tokens(tokenizer: PreTrainedTokenizerBase, ids: Iterable[Iterable[int]]) -> int:
    """Counts the tokenizer's unknown token in `ids`: places where text was lost."""
    unknown = tokenizer.unk_token_id
    return 0 if unknown is None else sum(token == unknown for one in ids for token in one)


def passages(text: str, max_bytes: int) -> Iterator[str]:
    """Yields `text` in pieces of at most `max_bytes` UTF-8 bytes, cut between characters.

    Raises:
        UserError: `max_bytes` is below 4, the bytes of the longest character.
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
    """Checks that two models read the same tokens, so that their logits can be compared.

    Raises:
        UserError: the vocabularies differ, or the tokenizers give other ids for `texts`.
    """
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
