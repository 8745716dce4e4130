"""Bars in a terminal, lines in a log: how far all open bars are, even while a step takes long."""

import gc
import io
import sys
import threading
import time

import pytest

from bitstack.machine import progress
from bitstack.machine.progress import SHARE, bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def log_file(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What stands in the log file, with lines much more often. No fixture: pytest sets stderr
    anew after those."""
    gc.collect()  # bars that other tests have left open
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    return written


def wait_for(log: io.StringIO, text: str) -> None:
    end = time.monotonic() + 20
    while text not in log.getvalue():
        assert time.monotonic() < end, log.getvalue()
        time.sleep(0.01)


def test_a_log_gets_lines_of_all_open_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_file(monkeypatch)
    with bar(desc="measure", show=True, total=3) as outer:
        outer.update()
        with bar(desc="tune", show=True, total=50, unit="step") as inner:
            inner.set_postfix_str("which would draw a bar")
            inner.update(20)
            wait_for(log, "measure: 1 of 3, tune: 20 of 50 steps, 0.")
        wait_for(log, "measure: 1 of 3, 0.")
    for line in log.getvalue().splitlines():
        assert line.startswith("measure: ")
        assert line.endswith(" s")
    assert "\r" not in log.getvalue()


def test_units(monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_file(monkeypatch)
    with bar(desc="decompose", show=True, total=400.0, unit=SHARE) as share:
        share.update(100.0)
        wait_for(log, "decompose: 25%, ")
    with bar(desc="download", show=True, total=2048, unit="B") as size:
        size.update(1024)
        wait_for(log, "download: 1.00 KiB of 2.00 KiB, ")
    with bar(desc="rows", show=True) as endless:
        endless.update(7)
        wait_for(log, "rows: 7, ")


def test_lines_end_with_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_file(monkeypatch)
    assert list(bar([1, 2], desc="quick", show=True)) == [1, 2]
    before = threading.active_count()
    with bar(desc="slow", show=True, total=1):
        wait_for(log, "slow: 0 of 1")
    end = time.monotonic() + 20
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_bar_that_the_collector_closes_while_another_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It did so once while a lock was held, and the command hung."""
    log = log_file(monkeypatch)
    start = threading.Thread.start

    def collected_meanwhile(thread: threading.Thread) -> None:
        lost = bar(desc="lost", show=True, total=1)
        del lost  # closed here, in the midst of opening the other
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", collected_meanwhile)
    with bar(desc="kept", show=True, total=1):
        wait_for(log, "kept: 0 of 1")
    assert "lost" not in log.getvalue()


def test_bars_of_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_file(monkeypatch)

    def work() -> None:
        for _ in range(50):
            with bar(desc="short", show=True, total=2) as one:
                one.update()

    with bar(desc="whole", show=True, total=1):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        wait_for(log, "whole: 0 of 1, 0.")


def test_nothing_is_shown_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_file(monkeypatch)
    for _ in bar([1], desc="hidden", show=False):
        time.sleep(0.05)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in bar([1, 2], desc="shown", show=True):
        time.sleep(0.05)
    assert "shown: 100%" in terminal.getvalue()
    assert " of 2" not in terminal.getvalue()
