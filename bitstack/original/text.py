"""Turns text into token ids, for calibration and for every measurement.

Documents are read one at a time, so a limit on the tokens also limits what is read. Does not read
files; see `original.documents`. Does not choose the windows that are scored; see `metrics.loss`.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.original.documents import read_documents
from bitstack.original.first_tokens import beginning_with, first_tokens, start_id
from bitstack.original.rows import Messages

_TODAY = re.compile(r"""strftime_now\((['"])(.*?)\1\)""")
_DAY = date(2024, 7, 26)  # in its place: a text must be the same on every day


@dataclass(frozen=True)
class Tokens:
    """A text as a model sees it."""

    ids: Tensor  # int64 [N]
    bytes: int  # UTF-8 bytes of `ids` decoded again, special tokens skipped
    sha256: str  # of the text read; for one plain UTF-8 file that of the file
    start: int | None = None  # id that the tokenizer puts before a text, so before every window


def token_ids(
    source: str, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int | None = None
) -> Tokens:
    """Tokenises every document whole, with the tokenizer's own special tokens, and joins the ids.

    Reading stops at the document that reaches `max_tokens`; the ids are cut there. A single file
    is tokenised in one piece, because cut anywhere, even at a line end, a general tokenizer may
    give other ids; of a long one only a beginning that gives the same ids. Chats are written by the
    tokenizer's own template, where it has one.

    Args:
        max_tokens: At most so many ids; None for all.

    Raises:
        UserError: There is no document, one cannot be read, or `max_tokens` is below 1.
    """
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max tokens is {max_tokens}; it must be at least 1, or left out for all")
    ids: list[int] = []
    size, digest = 0, hashlib.sha256()
    for index, text in enumerate(
        read_documents(source, lambda chat: _in_template(chat, tokenizer))
    ):
        # A zero byte between documents: two short ones must not hash like one long one.
        digest.update((b"\0" if index else b"") + text.encode())
        new = first_tokens(text, tokenizer, None if max_tokens is None else max_tokens - len(ids))
        ids += new
        size += _decoded_bytes(new, tokenizer)
        if max_tokens is not None and len(ids) >= max_tokens:
            break
    start = start_id(tokenizer)
    return Tokens(torch.tensor(ids, dtype=torch.int64), size, digest.hexdigest(), start)


def windows(ids: Tensor, length: int, *, count: int, seed: int, start: int | None = None) -> Tensor:
    """Returns calibration windows of `ids` [N]: int64 [min(count, N // length), length].

    They never overlap and stand at equal distances over the whole text.

    Args:
        length: Tokens of a window.
        count: Windows, or fewer where the text is short.
        seed: Seed of the shift that moves all windows together.
        start: Id that takes the place of the first token of every window; see `Tokens.start`.

    Raises:
        UserError: The text is shorter than one window.
    """
    if len(ids) < length:
        raise UserError(
            f"text too short: {len(ids)} tokens found, {length} needed for one window; "
            "give more text or a shorter window"
        )
    count = min(count, len(ids) // length)
    slack = len(ids) // count - length
    generator = torch.Generator().manual_seed(seed)
    shift = int(torch.randint(slack + 1, (1,), generator=generator))
    starts = torch.arange(count) * len(ids) // count + shift
    return beginning_with(ids[starts.unsqueeze(1) + torch.arange(length)], start)


def _decoded_bytes(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return len(str(text).encode())


def _in_template(chat: Messages, tokenizer: Any) -> str | None:
    """The chat as the model is used to it, None where the tokenizer has no template or another
    order of roles; without the first token that the tokenizer adds itself."""
    if not tokenizer.chat_template:
        return None
    try:
        template = _undated(tokenizer.get_chat_template())
        text = str(tokenizer.apply_chat_template(chat, tokenize=False, chat_template=template))
    except Exception:  # templates are programs, and refuse in ways of their own
        return None
    own = tokenizer.bos_token if start_id(tokenizer) == tokenizer.bos_token_id else None
    return text.removeprefix(own or "")


def _undated(template: str) -> str:
    """A chat template that names one and the same day instead of today."""
    return _TODAY.sub(lambda match: repr(_DAY.strftime(match[2])), template)
