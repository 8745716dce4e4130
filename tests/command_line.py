"""Calls the commands as other tools do."""

import subprocess
import sys

from typer.testing import CliRunner, Result

from bitstack.cli import app


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="compress-model")


def fails(*args: object) -> str:
    """The one line on stderr of a command that must refuse its input."""
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def python(*args: str, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]
