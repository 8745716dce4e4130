"""Multiplies many tokens at once on the CPU: unpacks panels of rows for torch's matrix product.

Threads take panels in turn, and each unpacks and multiplies its own on one core. They wait for one
another only at the end; torch's own parallel product would wait at a barrier in every panel for
threads that other work keeps from running. Panels are the only memory this costs; they are kept
between calls until `release`. Does not multiply few tokens; see `kernels.native`.

Least cost for t tokens and a matrix of m x n: 2 t m n operations of the matrix product, the same as
dense; beside them the planes are read, and m n dense weights are written to cache and read again.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack.kernels import checks, dispatch, native, threads
from bitstack.machine.pages import empty_pages

_PANELS = 1 << 24  # bytes of all panels: small next to a model
_LEAST = 1 << 22  # bytes of one panel: enough rows for an efficient product
_idle: list[Tensor] = []  # panels not in use; threads share it, as pop and append are atomic


def panels(rows: int, row_bytes: int, threads: int) -> list[tuple[int, int]]:
    """Returns ranges of rows, multiples of 64: each fits a panel, and every thread gets one.

    Args:
        row_bytes: Bytes of one unpacked row.
    """
    most = max(_PANELS // threads, _LEAST) // row_bytes
    step = max(64, min(most, -(-rows // threads) + 63) // 64 * 64)
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]


@contextmanager
def _panel(rows: int, columns: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Lends the memory of one panel, [rows, columns]."""
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
    """Returns the memory of panels not in use to the system."""
    _idle.clear()


def linear(
    variant: native.Variant,
    x: Tensor,
    planes: list[Tensor],
    scale: Tensor,
    rows: int,
    bias: Tensor | None,
) -> Tensor:
    """Returns `x` [..., n] times the transposed matrix, plus `bias` [m]: [..., m], dtype of `x`.

    Planes and scale set are as in `kernels.ops.coded_linear`.

    Raises:
        UserError, TypeError, ValueError: A tensor is not of that dtype, shape and device.
    """
    checks.activations(x, scale.device)
    columns = x.shape[-1]
    checks.matrix(planes, scale, rows, columns)
    checks.bias(bias, rows, x.device)
    flat = x.reshape(-1, columns).contiguous()
    halves = x.dtype == torch.bfloat16 and variant.halves
    out = x.new_empty(flat.shape[0], rows)
    if dispatch.widens(variant):
        flat = flat.float()
    if halves:  # x is scaled by v, so that unpacking is only a table look-up for each weight
        flat = native.scale_columns(variant, flat, scale, rows)

    def multiply(begin: int, end: int) -> None:
        unpack = native.unpack_halves if halves else native.unpack
        part = None if bias is None else bias[begin:end].to(flat.dtype)
        with _panel(end - begin, columns, flat.dtype) as weight:
            unpack(variant, planes, scale, rows, weight, begin=begin)
            out[:, begin:end] = F.linear(flat, weight, part)

    _share(multiply, panels(rows, columns * flat.itemsize, threads.count()))
    return out.view(*x.shape[:-1], rows)


def _share(work: Callable[[int, int], None], ranges: list[tuple[int, int]]) -> None:
    """Calls `work` for all ranges, on this thread and as many others as torch would use."""
    workers, set_threads = torch.get_num_threads(), threads.set_openmp()
    left = iter(ranges)

    def drain() -> None:
        with torch.inference_mode():  # a mode belongs to a thread: helpers lack the caller's
            for begin, end in left:
                work(begin, end)

    if workers < 2 or len(ranges) < 2 or set_threads is None:
        return drain()
    helpers = _helpers(workers - 1)
    threads.rest()
    started = [helpers.submit(drain) for _ in range(min(workers, len(ranges)) - 1)]
    set_threads(1)
    try:
        drain()
    finally:
        set_threads(workers)
        begun = [helper for helper in started if not helper.cancel()]
        for helper in begun:
            helper.result()


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "bitstack-panels", _become_serial)


def _become_serial() -> None:
    torch.get_num_threads()  # the first call in a thread sets its number, which is then changed
    set_threads = threads.set_openmp()
    assert set_threads is not None
    set_threads(1)


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)
