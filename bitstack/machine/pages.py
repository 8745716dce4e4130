"""Says which freed memory goes back to the operating system, and which is kept.

An allocator keeps freed memory for later requests, so a model that shrinks would not make the
process smaller. Blocks therefore lie in memory mappings of their own. Tensors too small for one
are left to the allocator, which `give_back` asks to return its free pages. Temporaries are the
other case: pages that go back after every operation must be brought in for the next one, which
takes longer than computing what is in them; see `freed_memory_kept`.
"""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitstack.errors import UserError

_OWN = 256 << 10  # bytes from which a tensor gets its own pages: under 2% is lost to rounding
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
_LARGEST_KEPT = 1 << 30  # bytes of a freed tensor, or of all freed at the end of the heap
_kept: list[bool] = []  # not empty within `freed_memory_kept`
_HUGE = 2 << 20  # bytes of a huge page, which takes one fault instead of 512


def empty_pages(size: int) -> Tensor:
    """Returns an uninitialised uint8 tensor of `size` bytes on the CPU.

    Raises:
        MemoryError: The system does not give that much.
    """
    if size < _OWN:
        return torch.empty(size, dtype=torch.uint8)
    # The tensor holds a reference to the mapping, which is unmapped with the last view of it.
    return torch.frombuffer(_mapping(size), dtype=torch.uint8)


def _mapping(size: int) -> mmap.mmap:
    private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    if not private:
        return mmap.mmap(-1, size)
    # MAP_POPULATE brings all pages in at once; huge pages can only be asked for afterwards.
    huge = size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE")
    populate = 0 if huge else getattr(mmap, "MAP_POPULATE", 0)
    try:
        memory = mmap.mmap(-1, size, flags=private | populate)
    except OSError as error:
        raise MemoryError(f"{size} bytes: {error.strerror}") from None
    if huge:
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


@cache
def _glibc(name: str) -> Any:
    """A function of glibc, None with another C library."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it large freed tensors stay with the allocator until `give_back` is called.

    Otherwise glibc returns them at once, and the system clears every page again when the next
    operation allocates its result: on a virtual machine that made a forward pass five times slower.
    May be nested. Does nothing with another C library.
    """
    if (mallopt := _glibc("mallopt")) is None or _kept:
        yield
        return
    _kept.append(True)
    mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_TRIM_THRESHOLD, _LARGEST_KEPT)
    try:
        yield
    finally:
        _kept.clear()
        mallopt(_MMAP_THRESHOLD, 128 << 10)  # glibc's own values
        mallopt(_TRIM_THRESHOLD, 128 << 10)
        give_back()


def give_back(*, cuda: bool = False) -> None:
    """Returns free memory of the C allocator to the system; with `cuda` also of torch's."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)
    if cuda:
        torch.cuda.empty_cache()


def process_bytes() -> int:
    """Returns the resident set of this process in bytes.

    Raises:
        UserError: There is no /proc, as on systems other than Linux.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        raise UserError(
            "/proc/self/statm: not there; the resident set is measured on Linux only"
        ) from None
    return pages * os.sysconf("SC_PAGE_SIZE")
