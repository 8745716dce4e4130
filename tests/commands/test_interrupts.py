"""Ctrl-C ends a command at once, with exit code 130, and leaves nothing that looks whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pico
from bitstack.cli import interrupt_again


@pytest.fixture
def model(pico_model: Callable[..., Path]) -> Path:
    return pico_model("llama-gqa")


class _Finalised:
    """Raises `error` as it is dropped."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_that_falls_into_a_finaliser_is_not_lost(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", interrupt_again)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    came = False
    try:
        _Finalised(error)
        for _ in range(500 if error is KeyboardInterrupt else 20):
            time.sleep(0.01)
    except KeyboardInterrupt:
        came = True
    finally:
        signal.signal(signal.SIGINT, ours)
    assert came == (error is KeyboardInterrupt)
    assert ("ValueError" in capsys.readouterr().err) == (error is ValueError)


def test_an_interrupt_exits_with_130_and_leaves_nothing_whole(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bitstack.cli", "run", str(model), "--blocks", "8"]
    book = tmp_path / "book.txt"
    book.write_text(pico.TEXT * 2000)
    process = subprocess.Popen(
        [
            *command,
            "--output",
            str(tmp_path / "c"),
            "--calibration",
            str(book),
            "--num-samples",
            "900",
        ],
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it starts in the background ignore interrupts, these tests perhaps too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "c" / ".work").is_dir() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted"
    assert not (tmp_path / "c" / "bitstack.json").exists()
