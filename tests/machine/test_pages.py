"""Memory of a freed tensor goes back to the system, and a tensor keeps its own until then."""

import gc
from pathlib import Path

import pytest
import torch

from bitstack.errors import UserError
from bitstack.machine import pages
from bitstack.machine.pages import empty_pages, process_bytes

MANY = 64 << 20  # bytes: far more than the process takes or frees by itself meanwhile
linux = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="measured on Linux only")


@pytest.mark.parametrize("size", [0, 1, pages._OWN - 1, pages._OWN, pages._OWN + 1, pages._HUGE])
def test_any_size_can_be_written_and_read(size: int) -> None:
    one, other = empty_pages(size), empty_pages(size)
    one.fill_(7)
    other.fill_(9)
    assert (one.dtype, one.shape) == (torch.uint8, (size,))
    assert (one == 7).all()


def test_a_view_keeps_the_memory() -> None:
    whole = empty_pages(pages._OWN)
    whole.copy_(torch.arange(pages._OWN) % 251)
    view = whole[1000:].view(torch.int16)[:50]
    expected = view.clone()
    del whole
    gc.collect()
    assert torch.equal(view, expected)


def test_more_than_there_is() -> None:
    with pytest.raises(MemoryError):
        empty_pages(1 << 60)


@linux
@pytest.mark.parametrize("size", [pages._OWN, MANY])
def test_freed_tensors_make_the_process_smaller(size: int) -> None:
    before = process_bytes()
    tensors = [empty_pages(size).fill_(1) for _ in range(MANY // size)]
    assert process_bytes() - before > 0.9 * MANY
    del tensors
    gc.collect()
    assert process_bytes() - before < 0.1 * MANY


@linux
def test_process_bytes_are_those_of_the_status_file() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    assert process_bytes() == pytest.approx(1024 * kib, rel=0.05)


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    with pytest.raises(UserError, match="measured on Linux only"):
        process_bytes()
