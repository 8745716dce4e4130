"""Freed memory is kept where it is asked for, and goes back when it is asked for."""

import gc
from pathlib import Path

import pytest
import torch

from bitstack.machine import allocator
from bitstack.machine.allocator import freed_memory_kept, give_back
from bitstack.machine.pages import empty_pages, process_bytes

MANY = 64 << 20  # bytes: far more than the process takes or frees by itself meanwhile
linux = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="measured on Linux only")
glibc = pytest.mark.skipif(allocator._glibc("mallopt") is None, reason="another C library")


@linux
@glibc
def test_freed_tensors_stay_within_and_go_back_behind() -> None:
    give_back()
    before = process_bytes()
    with freed_memory_kept():
        with freed_memory_kept():
            tensor = torch.ones(MANY // 4)
            del tensor
        assert process_bytes() - before > 0.9 * MANY  # the inner one does not end it
        give_back()
        assert process_bytes() - before < 0.1 * MANY
        tensor = torch.ones(MANY // 4)
        del tensor
    assert process_bytes() - before < 0.1 * MANY


@linux
@pytest.mark.skipif(allocator._glibc("malloc_trim") is None, reason="another C library than glibc")
def test_small_tensors_go_back_when_they_are_asked_for() -> None:
    size = 100 << 10
    give_back()
    before = process_bytes()
    tensors = [empty_pages(size).fill_(1) for _ in range(MANY // size)]
    last = empty_pages(size)  # above all others in the heap, which cannot shrink while it lives
    assert process_bytes() - before > 0.9 * MANY
    tensors.clear()
    gc.collect()
    give_back()
    assert process_bytes() - before < 0.1 * MANY
    assert len(last) == size


def test_another_c_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda name: None)
    give_back()


def test_the_cache_of_a_gpu_goes_back_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    give_back()
    assert emptied == []
    give_back(cuda=True)
    assert emptied == [1]
