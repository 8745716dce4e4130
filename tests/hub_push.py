"""Calls `push` as users do, and reads what it wrote: for the tests of the room hub."""

import json

from typer.testing import CliRunner, Result

from bitstack.cli import app
from bitstack.container.manifest import Manifest

NAME = "someone/pico-stacked"


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def push(*args: object) -> dict:
    """What a push that must succeed says of itself."""
    result = call("push", *args, "--json", "-", "--quiet")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fails(*args: object) -> str:
    """The one line on stderr of a command that must refuse its input."""
    result = call(*args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def shard_files(manifest: Manifest) -> list[str]:
    return [shard.file for shard in manifest.shards]


def table(text: str, first: str = "budget") -> list[list[str]]:
    """Cells of the card's table whose first column is called `first`, without its head."""
    lines = text.split(f"| {first} |")[1].split("\n\n")[0].splitlines()
    lines[0] = f"| {first} |{lines[0]}"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1, "a column too many"
    return cells[2:]
