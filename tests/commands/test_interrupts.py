"""Ctrl-C and SIGTERM end a command at once, with exit codes 130 and 143, and leave nothing that
looks whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pico
from bitstack.cli import Terminated, interrupt_again, terminate


@pytest.fixture
def model(pico_model: Callable[..., Path]) -> Path:
    return pico_model("llama-gqa")


class _Finalised:
    """Raises `error` as it is dropped."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated, ValueError])
def test_an_interrupt_that_falls_into_a_finaliser_is_not_lost(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", interrupt_again)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    our_end = signal.signal(signal.SIGTERM, terminate)
    came: type[BaseException] | None = None
    try:
        _Finalised(error)
        for _ in range(20 if error is ValueError else 500):
            time.sleep(0.01)
    except KeyboardInterrupt as stop:
        came = type(stop)
    finally:
        signal.signal(signal.SIGINT, ours)
        signal.signal(signal.SIGTERM, our_end)
    assert came == (None if error is ValueError else error)
    assert ("ValueError" in capsys.readouterr().err) == (error is ValueError)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing_whole_and_says_how_to_go_on(
    model: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
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
        os.kill(process.pid, sent)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert error.splitlines()[-1] == (
        f"interrupted; run the same command again, and {tmp_path / 'c'} goes on where it stopped"
    )
    assert not (tmp_path / "c" / "bitstack.json").exists()
