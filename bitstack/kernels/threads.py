"""Sets how many threads torch's operators use on the calling thread, apart from the products'.

After a parallel operator torch's OpenMP threads wait for the next one for some milliseconds and
keep their cores busy meanwhile. In a forward of few tokens they would do so in every layer, for a
tenth of the work, and the coded products would lack those cores. There torch's operators run on
the calling thread alone, and the products still use all threads that torch was given. Does not
tell which forwards those are; see `nn.steps`.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

_SOFT = 1  # omp_pause_soft of OpenMP 5: variables keep their values
_given = threading.local()  # .count: threads torch had on this thread before `torch_threads`


def count() -> int:
    """Returns how many threads a product called on this thread may use."""
    return getattr(_given, "count", None) or torch.get_num_threads()


@contextmanager
def torch_threads(*, single: bool) -> Iterator[None]:
    """Within it torch's operators called on this thread use one thread, or all of `count()`.

    May be nested. Does not affect other threads; does nothing where torch has no OpenMP.

    Args:
        single: One thread; False for all, also within a context of one.
    """
    openmp = set_openmp()
    outer = getattr(_given, "count", None)
    if openmp is None or not (single or outer):
        yield
        return
    now = torch.get_num_threads()
    _given.count = outer or now
    openmp(1 if single else _given.count)
    try:
        yield
    finally:
        _given.count = outer
        openmp(now)


def rest() -> None:
    """Ends the OpenMP threads of torch that wait for this thread's next operator.

    They would keep their cores busy while other threads want them; see above. The next parallel
    operator starts them again, in less than a tenth of a millisecond.
    """
    pause = _openmp("omp_pause_resource_all")
    if pause is not None:
        pause(_SOFT)


@cache
def set_openmp() -> Callable[[int], None] | None:
    """Returns omp_set_num_threads of torch's OpenMP, which acts on the calling thread only.

    `torch.set_num_threads` would change all threads that are started later, too. None where torch
    has another thread pool, and on Windows.
    """
    return _openmp("omp_set_num_threads")


@cache
def _openmp(name: str) -> Callable[[int], None] | None:
    """Returns a function of torch's OpenMP that takes a number; None where there is none."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes, function.restype = [ctypes.c_int], None
    return function
