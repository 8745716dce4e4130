"""Says which freed memory the C allocator keeps, and which goes back to the operating system.

Pages that go back after every operation must be brought in again for the next one, which can take
longer than computing what is in them; pages that are kept make the process large. Never imports
torch for it, so that commands without torch start at once. Does not allocate; see `machine.pages`.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
_LARGEST_KEPT = 1 << 30  # bytes of a freed tensor, or of all freed at the end of the heap
_kept: list[bool] = []  # not empty within `freed_memory_kept`


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
        # What glibc comes to by itself once large tensors were freed. A threshold that was set is
        # not adjusted any more, so a smaller one would stay, and slow down what comes after.
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 64 << 20)
        give_back()


def give_back(*, cuda: bool = False) -> None:
    """Returns free memory of the C allocator to the system; with `cuda` also of torch's."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)
    if cuda:
        import torch

        torch.cuda.empty_cache()
