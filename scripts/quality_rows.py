"""Finished rows of the benchmark: kept with the project, so that a run goes on on any machine.

One file a model, one row a line, each with its task and the commit that measured it. A row stays
until `forget` drops it; whether a later change of the library asks for that, a person decides.
"""

import json
import subprocess
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from peers import family
from peers.bench import Row, Task

ROWS = Path(__file__).parent / "quality"
DECIDES = ("bitstack", "metrics", "recipes", "scripts/peers")  # what a row depends on


def file_of(folder: Path, model: str) -> Path:
    return folder / f"rows-{model}.jsonl"


class Rows:
    """The rows of one task; other tasks' lines stay as they are."""

    def __init__(self, file: Path, task: Task) -> None:
        self.file, self.task = file, task
        found = [line for line in _lines(file) if Task(**line["task"]) == task]
        self.rows = [Row(**line["row"]) for line in found]
        self.commits = [line["commit"] for line in found]

    def has(self, method: str, setting: str) -> bool:
        return any(r.method == method and r.setting == setting for r in self.rows)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.commits.append(commit())
        line = {"task": asdict(self.task), "commit": self.commits[-1], "row": row.to_json()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, name: str) -> list[Row]:
        """The rows of one of `peers.METHODS`."""
        return [row for row in self.rows if family(row.method) == name]

    @property
    def made_by(self) -> dict[str, list[str]]:
        """The commits that measured the rows, with the methods each of them measured."""
        made: dict[str, list[str]] = {}
        for row, found in zip(self.rows, self.commits, strict=True):
            names = made.setdefault(found, [])
            if row.method not in names:
                names.append(row.method)
        return made


def forget(file: Path, task: Task, names: list[str]) -> None:
    """Drop the rows of some of `peers.METHODS` in one task."""
    kept = [
        line
        for line in _lines(file)
        if Task(**line["task"]) != task or family(line["row"]["method"]) not in names
    ]
    if file.exists():
        file.write_text("".join(json.dumps(line) + "\n" for line in kept))


def tasks(file: Path) -> list[Task]:
    """The tasks that have rows in `file`, in the order of their first."""
    return list(dict.fromkeys(Task(**line["task"]) for line in _lines(file)))


@cache
def commit() -> str:
    """The commit this script is of, as it was first asked for; `-dirty` behind it where what a row
    depends on is not as committed, `unknown` outside git."""
    head = _git("rev-parse", "--short", "HEAD").stdout.strip()
    changed = _git("status", "--porcelain", "--", *(f":/{path}" for path in DECIDES)).stdout
    return head + "-dirty" * bool(changed) if head else "unknown"


def _git(*command: str) -> subprocess.CompletedProcess[str]:
    folder = Path(__file__).parent
    return subprocess.run(
        ["git", *command], cwd=folder, capture_output=True, text=True, check=False
    )


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
