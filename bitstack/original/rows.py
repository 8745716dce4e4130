"""Takes the texts out of rows: lines and arrays of JSON, and data sets of the Hub.

A row has its text in a field, or is a chat. Does not open files; see `original.documents`.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from bitstack.errors import UserError
from bitstack.machine.extras import require

HUB = "hf:"
DEFAULT_COLUMN, CHAT = "text", "messages"  # fields of a row; the second where it has no first

Messages = list[dict[str, str]]  # of a chat: {"role": ..., "content": ...}
Render = Callable[[Messages], str | None]


def texts_of_lines(
    lines: Iterable[bytes], where: str, column: str, render: Render
) -> Iterator[str]:
    """Yields the text of every line that is not blank; `where` names their file in errors."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            at = f"{where} line {number}"
            yield _text(_parsed(line, at), column, render, at, "FILE.jsonl:COLUMN")


def texts_of_array(content: str, where: str, column: str, render: Render) -> Iterator[str]:
    """Yields the text of every entry of a JSON array; an entry may be a text itself."""
    rows = _parsed(content, where)
    if not isinstance(rows, list):
        raise UserError(
            f"{where}: not a JSON array; it must be one of texts or of objects such as "
            '{"text": ...}; rename it to .txt to have it read as plain text'
        )
    for number, row in enumerate(rows, start=1):
        at = f"{where} entry {number}"
        own = isinstance(row, str)
        yield _clean(row) if own else _text(row, column, render, at, "FILE.json:COLUMN")


def plainly(chat: Messages) -> str:
    """Returns the messages of a chat below each other, without their roles."""
    return "\n\n".join(message["content"] for message in chat)


def texts_of_hub(source: str, render: Render) -> Iterator[str]:
    """Yields the text of every row of a data set, `hf:DATASET[:CONFIG][:COLUMN]`."""
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
                yield _text(
                    row, column or DEFAULT_COLUMN, render, source, "hf:DATASET:CONFIG:COLUMN"
                )
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


def _text(row: Any, column: str, render: Render, where: str, form: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f'{where}: not a JSON object; it must be one, as {{"text": ...}}')
    value = row.get(column)
    chat = _chat(row) if column == CHAT or (value is None and column == DEFAULT_COLUMN) else []
    if chat:
        value = render(chat)
        value = plainly(chat) if value is None else value
    if not isinstance(value, str):
        strings = sorted(key for key, value in row.items() if isinstance(value, str))
        raise UserError(
            f"{where}: no text in field {column!r}; fields with text: "
            f"{', '.join(strings) or 'none'}; pick one as {form}"
        )
    return _clean(value)


def _clean(text: str) -> str:
    """JSON can spell half a surrogate pair; UTF-8, and so every tokenizer, cannot hold it."""
    return text.encode(errors="replace").decode()


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: broken JSON ({error}); repair or remove it") from None


def _chat(row: dict[str, Any]) -> Messages:
    """The messages of a row that have a text; none where it is no chat."""
    entries = row.get(CHAT)
    messages = [m for m in entries if isinstance(m, dict)] if isinstance(entries, list) else []
    return [
        {"role": str(m.get("role", "user")), "content": m["content"]}
        for m in messages
        if isinstance(m.get("content"), str)
    ]
