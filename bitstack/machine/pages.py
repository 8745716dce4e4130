"""Allocates memory that goes back to the operating system when its tensor is freed.

An allocator keeps freed memory for later requests, so a model that shrinks would not make the
process smaller. Blocks therefore lie in memory mappings of their own. Tensors too small for one
are left to the allocator; see `machine.allocator`.
"""

import mmap
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from bitstack.errors import UserError

_OWN = 256 << 10  # bytes from which a tensor gets its own pages: under 2% is lost to rounding
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
