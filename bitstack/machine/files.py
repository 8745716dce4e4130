"""Writes result files, whole or not at all, and turns disk errors into UserErrors.

JSON files hold only numbers that JSON has: infinities and NaN become null.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bitstack.errors import UserError


def write_json(target: str | Path, data: Any, *, option: str = "--json") -> None:
    """Writes `data` to the file `target` as JSON; infinities and NaN become null.

    Args:
        option: The command-line option that named the file, for the error message.

    Raises:
        UserError: The file cannot be written; an existing file is then unchanged.
    """
    write_text(target, json_text(data), option=option)


def json_text(data: Any) -> str:
    """Returns `data` as JSON with a line end; infinities and NaN become null."""
    return json.dumps(_finite(data), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def check_target(target: str | Path, *, option: str) -> None:
    """Checks, before any work, that a file could be written at `target`.

    Raises:
        UserError: It is a folder, or lies in none that can be written to.
    """
    path = Path(target)
    reason = ""
    if path.is_dir():
        reason = "it is a folder"
    elif not path.parent.is_dir():
        reason = f"{path.parent} is no folder"
    elif not os.access(path.parent, os.W_OK):  # it is written beside, and then renamed
        reason = "permission denied"
    if reason:
        raise UserError(
            f"{option} {target}: cannot write ({reason}); name a file in a folder that exists"
        )


def write_text(target: str | Path, text: str, *, option: str) -> None:
    """Writes `text` to the file `target` in UTF-8.

    Args:
        option: The command-line option that named the file, for the error message.

    Raises:
        UserError: The file cannot be written; an existing file is then unchanged.
    """
    check_target(target, option=option)
    path = Path(target)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{option} {path}: cannot write ({error.strerror}); name a file in a folder that exists"
        ) from None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Within it, a full or read-only disk gives a UserError, and half a file `path` is deleted.

    Raises:
        UserError: The disk refused a write.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if path.is_file():
            path.unlink()
        raise UserError(
            f"{path.parent}: cannot write ({str(error).splitlines()[0]}); free disk space or "
            "choose another --output"
        ) from None


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
