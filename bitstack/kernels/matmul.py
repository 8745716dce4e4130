"""Many tokens at once on the CPU: rows are unpacked into small panels for torch's matrix product.

Threads take panels in turn, and each unpacks and multiplies its own on one core. Nobody waits for
anybody before the end, where torch's own parallel product waits at a barrier, in every panel, for
threads that other work keeps from running. Panels are the only memory this costs; they are kept
between calls until `release`. What a call with few tokens runs is the compiled kernels' business.

Floors, t tokens and a matrix of m x n: 2 t m n operations of the matrix product, the same as dense;
beside them the planes read, and m n dense weights written to cache once and read again.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack.kernels import native, threads
from bitstack.machine.pages import empty_pages

_PANELS = 1 << 24  # bytes of all panels: small next to a model
_LEAST = 1 << 22  # bytes of one: enough rows for an efficient product
_idle: list[Tensor] = []  # panels nobody uses now; its methods are atomic


def panels(rows: int, row_bytes: int, threads: int) -> list[tuple[int, int]]:
    """Ranges of rows in steps of 64: no more than a panel, and at least one for every thread."""
    most = max(_PANELS // threads, _LEAST) // row_bytes
    step = max(64, min(most, -(-rows // threads) + 63) // 64 * 64)
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


@contextmanager
def _panel(rows: int, columns: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Memory for one panel, [rows, columns]."""
    size = rows * columns * dtype.itemsize
    try:
        memory = _idle.pop()
    except IndexError:
        memory = empty_pages(size)
    if memory.numel() < size:
        memory = empty_pages(size)
    try:
        yield memory[:size].view(dtype).view(rows, columns)
    finally:
        _idle.append(memory)


def release() -> None:
    """Give the memory of idle panels back to the system, for a model that goes on step by step."""
    _idle.clear()


def linear(
    variant: native.Variant,
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
) -> Tensor:
    """`x` [..., n] times the transposed matrix, plus `bias` [m]: [..., m] in the dtype of `x`."""
    columns = x.shape[-1]
    flat = x.reshape(-1, columns).contiguous()
    halves = x.dtype == torch.bfloat16 and variant.halves
    if halves:  # v goes into `x`: what is unpacked is then a table look-up a weight
        flat = native.scale_columns(variant, flat, scale, rows)
    out = x.new_empty(flat.shape[0], rows)

    def multiply(begin: int, end: int) -> None:
        unpack = native.unpack_halves if halves else native.unpack
        part = None if bias is None else bias[begin:end].to(x.dtype)
        with _panel(end - begin, columns, x.dtype) as weight:
            unpack(variant, planes, scale, rows, weight, begin=begin)
            out[:, begin:end] = F.linear(flat, weight, part)

    _share(multiply, panels(rows, columns * x.itemsize, threads.count()))
    return out.view(*x.shape[:-1], rows)


def _share(work: Callable[[int, int], None], ranges: list[tuple[int, int]]) -> None:
    """Call `work` for all ranges, on this thread and as many others as torch would use."""
    workers, set_threads = torch.get_num_threads(), threads.set_openmp()
    left = iter(ranges)

    def drain() -> None:
        with torch.inference_mode():  # a mode is a thread's own: helpers have none of the caller's
            for begin, end in left:
                work(begin, end)

    if workers < 2 or len(ranges) < 2 or set_threads is None:
        return drain()
    helpers = _helpers(workers - 1)
    started = [helpers.submit(drain) for _ in range(min(workers, len(ranges)) - 1)]
    set_threads(1)
    try:
        drain()
    finally:
        set_threads(workers)
        late = [helper for helper in started if not helper.cancel()]
        for helper in late:
            helper.result()


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "bitstack-panels", _become_serial)


def _become_serial() -> None:
    torch.get_num_threads()  # torch sets a thread's number when it is first asked
    set_threads = threads.set_openmp()
    assert set_threads is not None
    set_threads(1)


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)
