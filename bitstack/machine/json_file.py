"""Reads JSON that came from elsewhere, within bounds: of size, depth, and length of numbers.

Keys that stand twice, NaN and infinities are refused: readers differ in what they make of them.
Does not know what the values mean; see `container.manifest`.
"""

import json
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bitstack.errors import UserError
from bitstack.machine.plain_files import open_plain

DEEPEST = 64  # lists and objects within one another
_LONGEST_NUMBER = 40  # characters
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def read_json(path: Path, most_bytes: int) -> Any:
    """Returns what a JSON file holds.

    Raises:
        UserError: It cannot be read, is larger than `most_bytes`, or holds no such JSON.
    """
    try:
        return parse_json(read_bytes(path, most_bytes))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({reason_of(error)}); copy it again") from None


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Returns the content of a regular file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is larger than `most_bytes`.
    """
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise ValueError(f"more than {most_bytes} bytes")
        return file.read(most_bytes)


def parse_json(data: bytes) -> Any:
    """Returns the value that JSON in UTF-8 stands for.

    Raises:
        ValueError: It is no JSON, too deep, or holds a number or key that is not taken.
    """
    if _depth(data) > DEEPEST and _depth(_STRING.sub(b"", data)) > DEEPEST:
        raise ValueError(f"more than {DEEPEST} lists and objects within one another")
    value = json.loads(
        data.decode("utf-8"),
        parse_int=_integer,
        parse_float=_number,
        parse_constant=_number,
        object_pairs_hook=_object,
    )
    if b"\\ud" in data.lower():  # half a character, which cannot be printed, is an error here
        json.dumps(value, ensure_ascii=False).encode()
    return value


def reason_of(error: Exception) -> str:
    """Returns what an error says, on one line of 200 characters at most."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def _depth(data: bytes) -> int:
    """Most brackets that are open at once, those in strings included."""
    # In pieces: the arrays are ten times as large as the text.
    deepest = depth = 0
    for start in range(0, len(data), 1 << 20):
        piece = np.frombuffer(data, np.uint8, min(1 << 20, len(data) - start), start) | 0x20
        steps = (piece == ord("{")).astype(np.int8) - (piece == ord("}")).astype(np.int8)
        depths = depth + np.cumsum(steps, dtype=np.int64)
        deepest, depth = max(deepest, int(depths.max())), int(depths[-1])
    return deepest


def _integer(text: str) -> int:
    return int(_short(text))


def _number(text: str) -> float:
    value = float(_short(text))
    if not math.isfinite(value):
        raise ValueError(f"the number {text}")
    return value


def _short(text: str) -> str:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {keys.most_common(1)[0][0][:100]!r} twice")
    return made
