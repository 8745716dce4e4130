"""How many threads torch's own operators take on the calling thread, and how many ours take.

After a parallel operator torch's OpenMP threads look for the next one for some milliseconds, and
hold their cores meanwhile. In a forward of few tokens they would do so in every layer, for a tenth
of the work, and the coded products would lack those cores. There torch's operators run on the
calling thread alone, and the products still take all threads that torch was given.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

_given = threading.local()  # .count: threads torch had on this thread before it was told otherwise


def count() -> int:
    """Threads that a product called on this thread may take."""
    return getattr(_given, "count", None) or torch.get_num_threads()


@contextmanager
def torch_takes(alone: bool) -> Iterator[None]:
    """Within it torch's operators called on this thread take one thread, or all of `count()`.

    May be nested. Other threads are left alone; nothing happens where torch has no OpenMP.
    """
    openmp = set_openmp()
    outer = getattr(_given, "count", None)
    if openmp is None or not (alone or outer):
        yield
        return
    now = torch.get_num_threads()
    _given.count = outer or now
    openmp(1 if alone else _given.count)
    try:
        yield
    finally:
        _given.count = outer
        openmp(now)


@cache
def set_openmp() -> Callable[[int], None] | None:
    """omp_set_num_threads of the library torch computes with: it acts on the calling thread alone.

    `torch.set_num_threads` would change all threads that are started later, too. None where torch
    has another pool, and on Windows.
    """
    try:
        function = ctypes.CDLL(None).omp_set_num_threads
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes, function.restype = [ctypes.c_int], None
    return function
