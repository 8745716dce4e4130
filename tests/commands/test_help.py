"""What `--help` says of every command: an example that works, and each option in full sentences.

Also covers `commands.shared`.
"""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bitstack.cli import app
from bitstack.commands import run

NARROW = 80  # columns


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(words after compress-model, command) of all that can be called, groups too."""
    yield " ".join(path), group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


EVERY = dict(commands(typer.main.get_command(app))) | {"run": run.full_command()}
LEAVES = {path: one for path, one in EVERY.items() if not hasattr(one, "commands")}


def shown(path: str, columns: int = NARROW) -> str:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [*path.split(), "--help"])
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_an_example_that_works(path: str) -> None:
    (line,) = re.findall(r"^  Example: (compress-model .*)$", shown(path), re.MULTILINE)
    program, *words = shlex.split(line)
    assert (program, words[: len(path.split())]) == ("compress-model", path.split())
    LEAVES[path].make_context(path, words[len(path.split()) :])  # raises for a wrong option


@pytest.mark.parametrize("path", EVERY)
def test_every_line_fits(path: str) -> None:
    for columns in (NARROW, 120):
        assert max(map(len, shown(path, columns).splitlines())) <= columns


@pytest.mark.parametrize("path", [path for path in EVERY if path not in LEAVES])
def test_no_summary_is_cut_short(path: str) -> None:
    listed = shown(path).partition("Commands:")[2]
    assert "..." not in listed
    assert len(listed.strip().splitlines()) == len(EVERY[path].commands)


@pytest.mark.parametrize("path", LEAVES)
def test_every_option_is_explained(path: str) -> None:
    """A capital and at least four words; a default in brackets may follow."""
    for option in LEAVES[path].params:
        if getattr(option, "hidden", False):
            continue
        words = re.sub(r" ?\[default: .*\]$", "", option.help or "").rstrip(".")
        words = re.sub(r"^(codes|signs): ", "", words)
        assert re.match(r"[A-Z]\w", words), (option.name, words)
        assert len(words.split()) >= 4, (option.name, words)


@pytest.mark.parametrize(
    "name", ["text", "stride", "max_tokens", "level", "original", "budget", "device", "json"]
)
def test_an_option_says_the_same_everywhere(name: str) -> None:
    wordings: dict[bool, set[tuple[Any, ...]]] = {}
    for path, command in LEAVES.items():
        for option in command.params:
            if option.name == name and (path, name) != ("run", "device"):
                many = bool(getattr(option, "multiple", False))
                wordings.setdefault(many, set()).add((option.help, option.metavar, *option.opts))
    assert wordings
    assert all(len(ways) == 1 for ways in wordings.values()), wordings


def test_a_list_of_names() -> None:
    from bitstack.commands.shared import one_or_all, split_names

    assert split_names(" a, b,,") == ["a", "b"]
    assert split_names(",") == []
    assert split_names(None) is None
    assert one_or_all([{"a": 1}]) == {"a": 1}
    assert one_or_all([{}, {}]) == {"models": [{}, {}]}
