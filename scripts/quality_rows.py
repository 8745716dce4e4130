"""Reads and writes the finished rows of `bench_quality.py` and `bench_frontier.py`.

They are kept in the repository. Each model has a file, with one row a line, its task and the commit
that measured it. A row stays until `forget` drops it: a person decides whether a change of the
library makes it stale.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from peers import family
from peers.bench import Row, Task

ROWS = Path(__file__).parent / "quality"
FRONTIER = "frontier"  # of the files of `bench_frontier.py`
DECIDES = (
    "bitstack",
    "metrics",
    "recipes",
    "scripts/peers",
    "scripts/frontier",
)  # folders that a row depends on


def file_of(folder: Path, model: str, name: str = "rows") -> Path:
    """Returns the file with the rows of a model."""
    return folder / f"{name}-{model}.jsonl"


class Rows:
    """The rows of one task, in a file that may hold others.

    Args:
        file: With one row a line.
        task: What the rows measured.
        kind: The class of the rows.
        other: A file with more rows; of a method at a setting that both have, `file` counts.
    """

    def __init__(
        self, file: Path, task: Task, kind: type[Row] = Row, other: Path | None = None
    ) -> None:
        self.file, self.task = file, task
        self.rows: list[Row] = []
        self.commits: list[str] = []
        for line in (line for source in (file, other) if source for line in _lines(source)):
            row = _row(kind, line["row"])
            if Task(**line["task"]) == task and not (other and self.has(row.method, row.setting)):
                self.rows.append(row)
                self.commits.append(line["commit"])

    def has(self, method: str, setting: str) -> bool:
        """Returns whether the row of a method at a setting is there."""
        return any(r.method == method and r.setting == setting for r in self.rows)

    def add(self, row: Row) -> None:
        """Adds a row and writes it to the file."""
        self.rows.append(row)
        self.commits.append(commit())
        line = {"task": asdict(self.task), "commit": self.commits[-1], "row": row.to_json()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, name: str) -> list[Row]:
        """Returns the rows of one of `peers.METHODS`."""
        return [row for row in self.rows if family(row.method) == name]

    @property
    def made_by(self) -> dict[str, list[str]]:
        """The methods that each commit measured, by commit."""
        methods: dict[str, list[str]] = {}
        for row, measured_by in zip(self.rows, self.commits, strict=True):
            names = methods.setdefault(measured_by, [])
            if row.method not in names:
                names.append(row.method)
        return methods


def forget(file: Path, task: Task, names: Sequence[str]) -> None:
    """Drops the rows of some of `peers.METHODS` in one task."""
    kept = [
        line
        for line in _lines(file)
        if Task(**line["task"]) != task or family(line["row"]["method"]) not in names
    ]
    if file.exists():
        file.write_text("".join(json.dumps(line) + "\n" for line in kept))


def tasks(file: Path) -> list[Task]:
    """Returns the tasks that have rows in `file`, in the order of their first row."""
    return list(dict.fromkeys(Task(**line["task"]) for line in _lines(file)))


@cache
def commit() -> str:
    """Returns the commit of this checkout; `unknown` outside git.

    `-dirty` follows where a folder that a row depends on has uncommitted changes.
    """
    head = _git("rev-parse", "--short", "HEAD").stdout.strip()
    changed = _git("status", "--porcelain", "--", *(f":/{path}" for path in DECIDES)).stdout
    return head + "-dirty" * bool(changed) if head else "unknown"


def _row(kind: type[Row], values: dict[str, Any]) -> Row:
    """Returns a row; fields that its class lacks, those of another script, are left out."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})


def _git(*command: str) -> subprocess.CompletedProcess[str]:
    folder = Path(__file__).parent
    return subprocess.run(
        ["git", *command], cwd=folder, capture_output=True, text=True, check=False
    )


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
