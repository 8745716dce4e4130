"""Files of results: whole or not at all; in JSON, only numbers that JSON has."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from bitstack.errors import UserError


def write_json(target: str | Path, data: Any, *, option: str = "--json") -> None:
    """Write `data` to the file `target`, or to stdout for `-`; infinities and NaN become null.

    UserError, naming the `option`, where the file cannot be written; an existing file is then
    unchanged.
    """
    text = json.dumps(_finite(data), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if str(target) == "-":
        sys.stdout.write(text)
        return
    write_text(target, text, option=option)


def write_text(target: str | Path, text: str, *, option: str) -> None:
    """Write the file `target`, as `write_json` does."""
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


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
