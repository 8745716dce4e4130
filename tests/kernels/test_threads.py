"""Torch's threads on the calling thread are set and restored; products keep theirs."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bitstack.kernels import threads
from bitstack.kernels.threads import torch_threads

pytestmark = pytest.mark.skipif(threads.set_openmp() is None, reason="torch has no OpenMP here")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def counts() -> tuple[int, int]:
    """Of torch, and of products."""
    return torch.get_num_threads(), threads.count()


def test_nested() -> None:
    assert counts() == (3, 3)
    with torch_threads(single=True):
        assert counts() == (1, 3)
        with torch_threads(single=False):
            assert counts() == (3, 3)
            with torch_threads(single=True):
                assert counts() == (1, 3)
            assert counts() == (3, 3)
        assert counts() == (1, 3)
    assert counts() == (3, 3)


def test_given_back_after_an_error() -> None:
    with pytest.raises(KeyError), torch_threads(single=True):
        raise KeyError
    assert counts() == (3, 3)


def test_other_threads_are_left_alone() -> None:
    seen: list[tuple[int, int]] = []
    with torch_threads(single=True):
        other = threading.Thread(target=lambda: seen.append(counts()))
        other.start()
        other.join()
    assert seen == [(3, 3)]


def test_not_alone_changes_nothing() -> None:
    with torch_threads(single=False):
        assert counts() == (3, 3)
        torch.set_num_threads(2)
    assert counts() == (2, 2)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_waiting_threads_end_and_start_again() -> None:
    def running() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    x = torch.ones(1 << 21)
    x.sum()
    before = running()
    threads.rest()
    deadline = time.monotonic() + 5
    while running() > before - 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running() <= before - 2
    assert x.sum() == 1 << 21
    assert running() >= before
