"""Tokenises as much of a long text as gives the tokens that are asked for, and no more; and gives
a window the first token that a whole text would have.

Does not read the text; see `original.text`.
"""

from typing import Any

import torch
from torch import Tensor

CHARACTERS = 8  # of a token, about twice the usual, so that the first try is seldom too short
MARGIN = 1024  # characters: what stands at a cut may be tokenised otherwise
_WORTHWHILE = 6  # times the first try: a shorter text is tokenised whole


def first_tokens(text: str, tokenizer: Any, count: int | None) -> list[int]:
    """Returns the first `count` ids of `text`, those of the text as a whole; None for all.

    A beginning of the text is enough where twice that beginning gives the same ids.
    """
    length = MARGIN + CHARACTERS * (count or 0)
    if count is None or len(text) < _WORTHWHILE * length:
        return _ids(text, tokenizer)[:count]
    ids = _ids(text[:length], tokenizer)[:count]
    while length < len(text):
        length *= 2
        longer = _ids(text[:length], tokenizer)
        if len(longer) > count and longer[:count] == ids:
            return ids
        ids = longer[:count]
    return ids


def start_id(tokenizer: Any) -> int | None:
    """Returns the id that the tokenizer itself puts before every text (BOS); None if it puts none.

    Such a model always saw this token first in training, so a window without it is unusual input.
    """
    with_own, without = (
        list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (True, False)
    )
    added = len(with_own) > len(without) and with_own[:1] != without[:1]
    return int(with_own[0]) if added else None


def beginning_with(windows: Tensor, start: int | None) -> Tensor:
    """Returns windows [n, length] of a text with `start` as their first token, if there is one.

    The token that it replaces would stand without context, and is not scored.
    """
    if start is None:
        return windows
    return torch.cat([torch.full_like(windows[:, :1], start), windows[:, 1:]], dim=1)


def _ids(text: str, tokenizer: Any) -> list[int]:
    # Not verbose: no warning of long texts.
    return list(tokenizer(text, verbose=False)["input_ids"])
