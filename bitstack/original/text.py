"""Reads text and turns it into token ids, for calibration and for every measurement.

A text source is one string, the same everywhere: a text file (gzip too), a folder of text files, a
`.jsonl` file, or `hf:DATASET[:CONFIG][:COLUMN]`. Documents are read one at a time, so a limit on
the tokens also limits what is read. Does not choose the windows that are scored; see
`metrics.loss`.
"""

import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.machine.extras import require
from bitstack.original.first_tokens import first_tokens

FORMS = (
    "a text file, a folder of text files, FILE.jsonl, FILE.jsonl:COLUMN "
    "or hf:DATASET[:CONFIG][:COLUMN]"
)
HUB = "hf:"
DEFAULT_COLUMN = "text"
JSONL = (".jsonl", ".jsonl.gz")
SNIFFED = 8192  # bytes looked at to tell a text file of a folder from a binary one


@dataclass(frozen=True)
class Tokens:
    """A text as a model sees it."""

    ids: Tensor  # int64 [N]
    bytes: int  # UTF-8 bytes of `ids` decoded again, special tokens skipped
    sha256: str  # of the text read; for one plain UTF-8 file that of the file


def read_documents(source: str) -> Iterator[str]:
    """Yields the documents of `source` that hold more than white space, in a fixed order.

    A text file is one document, a folder one for each text file (sorted by path, hidden and
    binary files skipped), a `.jsonl` file one for each line, a data set one for each row of its
    split `train`.

    Raises:
        UserError: There is no document, or a file or line cannot be read.
    """
    documents = (text for text in _documents(source) if text.strip())
    first = next(documents, None)
    if first is None:
        raise UserError(f"text source {source!r} holds no text; give {FORMS}")
    return chain([first], documents)


def has_rows(source: str) -> bool:
    """Tells whether `source` has a document in each row: a `.jsonl` file or a data set.

    A text file is one document.
    """
    return source.startswith(HUB) or _path_and_column(source)[0].name.endswith(JSONL)


def token_ids(
    source: str, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int | None = None
) -> Tokens:
    """Tokenises every document whole, with the tokenizer's own special tokens, and joins the ids.

    Reading stops at the document that reaches `max_tokens`; the ids are cut there. A single file
    is tokenised in one piece, because cut anywhere, even at a line end, a general tokenizer may
    give other ids; of a long one only a beginning that gives the same ids.

    Args:
        max_tokens: At most so many ids; None for all.

    Raises:
        UserError: There is no document, one cannot be read, or `max_tokens` is below 1.
    """
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max tokens is {max_tokens}; it must be at least 1, or left out for all")
    ids: list[int] = []
    size, digest = 0, hashlib.sha256()
    for index, text in enumerate(read_documents(source)):
        # A zero byte between documents: two short ones must not hash like one long one.
        digest.update((b"\0" if index else b"") + text.encode())
        new = first_tokens(text, tokenizer, None if max_tokens is None else max_tokens - len(ids))
        ids += new
        size += _decoded_bytes(new, tokenizer)
        if max_tokens is not None and len(ids) >= max_tokens:
            break
    return Tokens(torch.tensor(ids, dtype=torch.int64), size, digest.hexdigest())


def windows(ids: Tensor, length: int, *, count: int, seed: int) -> Tensor:
    """Returns calibration windows of `ids` [N]: int64 [min(count, N // length), length].

    They never overlap and stand at equal distances over the whole text.

    Args:
        length: Tokens of a window.
        count: Windows, or fewer where the text is short.
        seed: Seed of the shift that moves all windows together.

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
    return ids[starts.unsqueeze(1) + torch.arange(length)]


def _decoded_bytes(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return len(str(text).encode())


def _documents(source: str) -> Iterator[str]:
    if source.startswith(HUB):
        return _hub_rows(source)
    path, column = _path_and_column(source)
    if path.is_dir():
        return chain.from_iterable(_file(file, column) for file in _text_files(path))
    if not path.exists():
        raise UserError(f"text source {source!r} does not exist; give {FORMS}")
    return _file(path, column)


def _path_and_column(source: str) -> tuple[Path, str]:
    """Takes `FILE.jsonl:COLUMN` apart, unless a file of that whole name exists."""
    path, colon, column = source.rpartition(":")
    if colon and path.endswith(JSONL) and not Path(source).exists():
        return Path(path), column or DEFAULT_COLUMN
    return Path(source), DEFAULT_COLUMN


def _text_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if not _hidden(path.relative_to(folder)) and _is_text(path)]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_text(path: Path) -> bool:
    with _reading(path), _open(path) as file:
        return b"\0" not in file.read(SNIFFED)


def _file(path: Path, column: str) -> Iterator[str]:
    if path.name.endswith(JSONL):
        yield from _jsonl(path, column)
    else:
        with _reading(path), _open(path) as file:
            # Decoded by hand: text mode would turn \r\n into \n, and with it the tokens.
            yield file.read().decode("utf-8-sig")


def _jsonl(path: Path, column: str) -> Iterator[str]:
    with _reading(path), _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _field(line, column, f"{path} line {number}")


def _field(line: bytes, column: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: broken JSON ({error}); repair or remove the line") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: not a JSON object; each line must be one, as {{"text": ...}}')
    return _column(row, column, where, "FILE.jsonl:COLUMN")


def _column(row: dict[str, Any], column: str, where: str, form: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        strings = sorted(key for key, value in row.items() if isinstance(value, str))
        raise UserError(
            f"{where}: no text in field {column!r}; fields with text: "
            f"{', '.join(strings) or 'none'}; pick one as {form}"
        )
    # JSON can spell half a surrogate pair; UTF-8, and so every tokenizer, cannot hold it.
    return value.encode(errors="replace").decode()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); check the file") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _hub_rows(source: str) -> Iterator[str]:
    name, config, column, *extra = [*source.removeprefix(HUB).split(":"), "", ""]
    if not name or any(extra):
        raise UserError(f"text source {source!r}: a data set is hf:DATASET[:CONFIG][:COLUMN]")
    require("datasets")
    from datasets import load_dataset  # seconds to import, and few need it

    with _quiet_hub():
        try:
            rows = iter(load_dataset(name, config or None, split="train", streaming=True))
            row = next(rows, None)
            while row is not None:
                yield _column(row, column or DEFAULT_COLUMN, source, "hf:DATASET:CONFIG:COLUMN")
                row = next(rows, None)
        except UserError:
            raise
        except Exception as error:  # the library has no common base for what can go wrong here
            reason = " ".join(str(error).split())
            raise UserError(
                f"text source {source!r} cannot be read ({type(error).__name__}: {reason}); "
                "check the name, the configuration and the network, or give a local file"
            ) from None


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silences the hub client's warnings of its retries: the error that follows says all."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
