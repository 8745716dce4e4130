"""Cuts texts into short pieces of whole paragraphs.

Does not choose the texts; see the other modules of this package.
"""

from itertools import cycle

SIZES = (1200, 2500, 1200, 4500)  # characters of a piece, in turn: a little more than so many


def spread(text: str, count: int) -> list[str]:
    """Returns `count` pieces of whole paragraphs, at equal distances in the text."""
    paragraphs = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
    starts = [len(paragraphs) * (2 * i + 1) // (2 * count) for i in range(count)]
    ends = [*starts[1:], len(paragraphs)]
    return [
        _piece(paragraphs[start:end], size)
        for start, end, size in zip(starts, ends, cycle(SIZES), strict=False)
    ]


def whole(text: str, size: int) -> list[str]:
    """Returns all of a text in pieces of at least `size` characters, but for the last."""
    paragraphs = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
    pieces = []
    while paragraphs:
        pieces.append(_piece(paragraphs, size))
        paragraphs = paragraphs[pieces[-1].count("\n\n") + 1 :]
    return pieces


def _piece(paragraphs: list[str], size: int) -> str:
    """Returns the first paragraphs, until they have `size` characters."""
    taken, length = [], 0
    for paragraph in paragraphs:
        if length >= size:
            break
        taken.append(paragraph)
        length += len(paragraph) + 2
    return "\n\n".join(taken)
