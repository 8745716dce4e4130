"""Tokenises as much of a long text as gives the tokens that are asked for, and no more.

Does not read the text; see `original.text`.
"""

from typing import Any

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


def _ids(text: str, tokenizer: Any) -> list[int]:
    # Not verbose: no warning of long texts.
    return list(tokenizer(text, verbose=False)["input_ids"])
