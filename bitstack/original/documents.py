"""Reads the documents of a text source.

A source is one string, the same everywhere: a text file (gzip too), a folder of text files, a
`.jsonl` file, a `.json` file with an array, or `hf:DATASET[:CONFIG][:COLUMN]`. Documents are read
one at a time, but for those of an array. Does not tokenise; see `original.text`.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO

from bitstack.errors import UserError
from bitstack.original.rows import (
    DEFAULT_COLUMN,
    HUB,
    Render,
    plainly,
    texts_of_array,
    texts_of_hub,
    texts_of_lines,
)

FORMS = (
    "a text file, a folder of text files, FILE.jsonl or FILE.json, with :COLUMN behind it for "
    "another field than text, or hf:DATASET[:CONFIG][:COLUMN]"
)
LINES, ARRAY = (".jsonl", ".jsonl.gz"), (".json", ".json.gz")
SNIFFED = 8192  # bytes looked at to tell a text file of a folder from a binary one

# Marks at the beginning of a file, the longer ones first: that of UTF-16 begins that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_documents(source: str, render: Render | None = None) -> Iterator[str]:
    """Yields the documents of `source` that hold more than white space, in a fixed order.

    A text file is one document, a folder one for each text file (sorted by path, hidden and
    binary files skipped), a `.jsonl` file one for each line, a `.json` file one for each entry of
    its array, a data set one for each row of its split `train`. Text is UTF-8, or UTF-16 or UTF-32
    with a byte order mark.

    Args:
        source: See FORMS.
        render: Writes the chat of a row without a field `text` but with `messages` as one text.
            Where it is missing or gives None, the messages stand below each other.

    Raises:
        UserError: There is no document, or a file or line cannot be read.
    """
    documents = (text for text in _documents(source, render or plainly) if text.strip())
    first = next(documents, None)
    if first is None:
        raise UserError(f"text source {source!r} holds no text; give {FORMS}")
    return chain([first], documents)


def check_source(source: str) -> None:
    """Checks that the file or folder of a text source is there; data sets of the Hub are not asked.

    Raises:
        UserError: It is not.
    """
    if not source.startswith(HUB) and not _path_and_column(source)[0].exists():
        raise UserError(f"text source {source!r} does not exist; give {FORMS}")


def has_rows(source: str) -> bool:
    """Tells whether `source` has a document in each row: a JSON file or a data set.

    A text file is one document.
    """
    return source.startswith(HUB) or _path_and_column(source)[0].name.endswith((*LINES, *ARRAY))


def _documents(source: str, render: Render) -> Iterator[str]:
    if source.startswith(HUB):
        return texts_of_hub(source, render)
    path, column = _path_and_column(source)
    if path.is_dir():
        return chain.from_iterable(
            _file(file, column, render, alone=False) for file in _text_files(path)
        )
    check_source(source)
    return _file(path, column, render)


def _path_and_column(source: str) -> tuple[Path, str]:
    """Takes `FILE.jsonl:COLUMN` apart, unless a file of that whole name exists."""
    path, colon, column = source.rpartition(":")
    if colon and path.endswith((*LINES, *ARRAY)) and not Path(source).exists():
        return Path(path), column or DEFAULT_COLUMN
    return Path(source), DEFAULT_COLUMN


def _text_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if not _hidden(path.relative_to(folder)) and _is_text(path)]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_text(path: Path) -> bool:
    with _reading(path), _open(path) as file:
        start = file.read(SNIFFED)
    return b"\0" not in start or _encoding(start) != "utf-8"


def _encoding(start: bytes) -> str:
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def _file(path: Path, column: str, render: Render, *, alone: bool = True) -> Iterator[str]:
    if path.name.endswith(LINES):
        with _reading(path), _open(path) as file:
            yield from texts_of_lines(file, str(path), column, render)
    elif path.name.endswith(ARRAY):
        try:
            yield from list(texts_of_array(_decoded(path), str(path), column, render))
        except UserError:
            if alone:
                raise
            yield _decoded(path)  # settings and the like, in a folder of code
    else:
        yield _decoded(path)


def _decoded(path: Path) -> str:
    with _reading(path):
        with _open(path) as file:
            content = file.read()
        # Decoded by hand: text mode would turn \r\n into \n, and with it the tokens.
        text = content.decode(_encoding(content))
    if "\0" in text:
        raise UserError(f"{path}: holds zero bytes, so it is no UTF-8 text; convert it first")
    return text


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not {error.encoding.upper()} text (byte {error.start}); convert it to UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); check the file") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
