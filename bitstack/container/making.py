"""Keeps how long the run took that made a container, in a small file of its own.

Everything else of a container is the same for the same model, text and recipe; a time is not. So it
stands in no other file, and no checksum covers it. Does not measure it; see `compression.pipeline`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from bitstack.errors import UserError
from bitstack.machine.durations import format_duration
from bitstack.machine.files import json_text
from bitstack.machine.json_file import read_json
from bitstack.machine.plain_files import plain_file

MADE = "made.json"
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class Making:
    """The run that finished a container."""

    seconds: float
    processes: int  # that shared it
    continued: bool  # whether it went on from an interrupted one, whose time is not counted

    def words(self) -> str:
        """Returns the time as a person reads it."""
        shared = f" in {self.processes} processes" if self.processes > 1 else ""
        last = ", after an interrupted run whose time is not counted" if self.continued else ""
        return f"{format_duration(self.seconds)}{shared}{last}"


def write_making(folder: Path, making: Making) -> None:
    """Writes the file into a container's folder."""
    (folder / MADE).write_text(json_text(asdict(making)), encoding="utf-8")


def read_making(folder: Path) -> Making | None:
    """Returns what the file says; None where there is none, or one that says something else."""
    try:
        fields = read_json(plain_file(folder, MADE), _MOST_BYTES)
        making = Making(**fields)
    except (UserError, TypeError):
        return None
    kinds = zip((float, int, bool), asdict(making).values(), strict=True)
    whole = all(type(value) is kind for kind, value in kinds)
    return making if whole and making.seconds >= 0 and making.processes > 0 else None
