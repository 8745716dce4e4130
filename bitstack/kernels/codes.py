"""Does what a decomposition does most with codes: values of codes, sums by code, the search.

Each is compiled for CPUs; elsewhere, and where the library was not built, `values` and
`sum_by_code` run in torch, and the search does so in `decompose.search`. Does not know why it is
called; see `decompose`.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from bitstack.kernels import arguments, checks, library, native, threads

_FP32 = (torch.float32,)


def is_native(code: Tensor) -> bool:
    """Tells whether the compiled functions take this tensor."""
    return code.device.type == "cpu" and native.compiled() is not None


def values(
    code: Tensor, planes: int, table: Tensor, u: Tensor, v: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Returns `u T[code] v` [m, n] in `dtype`.

    Args:
        code: uint8 [m, n]; the low `planes` bits count.
        table: T fp32 [2^planes].
        u: Scales of the rows, fp32 [m].
        v: Scales of the columns, fp32 [n].
        dtype: fp32 or bf16.

    Raises:
        TypeError, ValueError: A tensor is not of that dtype, shape and device.
    """
    code, table, u, v = (t.contiguous() for t in (code, table, u, v))
    check_code(code, planes)
    checks.tensor("table", table, _FP32, (2**planes,), code.device)
    checks.tensor("u", u, _FP32, code.shape[:1], code.device)
    checks.tensor("v", v, _FP32, code.shape[1:], code.device)
    functions = native.compiled()
    if functions is None or not code.is_cpu:
        return table[(code & (2**planes - 1)).int()].mul_(v).mul_(u.unsqueeze(1)).to(dtype)
    out = torch.empty(code.shape, dtype=dtype)
    failed = functions.bitstack_values(
        *buffer(code), 2**planes, *buffer(table), *buffer(u), *buffer(v), *code.shape,
        *buffer(out), arguments.DTYPES.get(dtype, -1), threads.count(),
    )  # fmt: skip
    if failed:
        library.fail(failed)
    return out


def buffer(value: Tensor | None) -> arguments.Buffer:
    """Returns address and number of elements of a checked tensor, a null pointer for None."""
    return (0, 0) if value is None else (value.data_ptr(), value.numel())


def check_code(code: Tensor, planes: int) -> None:
    """Refuses what are not the codes of a matrix, or not 0 to 8 planes.

    Raises:
        TypeError, ValueError: They are not.
    """
    checks.whole(planes=planes)
    checks.tensor("code", code, (torch.uint8,))
    if code.dim() != 2 or not 0 <= planes <= checks.MOST_PLANES:
        shape = list(code.shape)
        raise ValueError(f"code: shape {shape}, {planes} planes: pass [m, n] and 0 to 8 planes")


def sum_by_code(
    code: Tensor, planes: int, rows: Tensor, columns: Tensor, x: Tensor | None = None
) -> Tensor:
    """Returns the sum of `rows_r columns_c x_rc` over the weights of each code, fp32 [2^planes].

    Args:
        code: uint8 [m, n]; the low `planes` bits count.
        rows: fp32 [m].
        columns: fp32 [n].
        x: fp32 [m, n]; None for ones.

    Raises:
        TypeError, ValueError: A tensor is not of that dtype, shape and device.
    """
    code, rows, columns = code.contiguous(), rows.contiguous(), columns.contiguous()
    x = None if x is None else x.contiguous()
    check_code(code, planes)
    checks.tensor("rows", rows, _FP32, code.shape[:1], code.device)
    checks.tensor("columns", columns, _FP32, code.shape[1:], code.device)
    if x is not None:
        checks.tensor("x", x, _FP32, code.shape, code.device)
    functions = native.compiled()
    if functions is None or not code.is_cpu:
        weighted = rows.unsqueeze(1) * columns
        weighted = weighted if x is None else weighted.mul_(x)
        index = (code & (2**planes - 1)).int().flatten()
        return torch.bincount(index, weights=weighted.flatten(), minlength=2**planes).float()
    sums = torch.zeros(2**planes, dtype=torch.float64)
    failed = functions.bitstack_sum_by_code(
        *buffer(code), 2**planes, *buffer(rows), *buffer(columns), *buffer(x), *code.shape,
        *buffer(sums), threads.count(),
    )  # fmt: skip
    if failed:
        library.fail(failed)
    return sums.float()


@dataclass(frozen=True)
class Searched:
    """The levels that a search looks at: fp32, contiguous, on the CPU; planes rise."""

    planes: list[int]
    tables: list[Tensor]  # [2^planes] each
    u: list[Tensor]  # [m] each
    v: list[Tensor]  # [n] each
    products: list[Tensor]  # [m, n] each: errors times the damped second moment
    weights: Tensor  # [J], how much the error of each counts


def descend(levels: Searched, hessians: Tensor, code: Tensor, start: int, kept: int) -> Tensor:
    """Chooses the codes of one panel of columns by coordinate descent, as `decompose.search` says.

    Args:
        levels: J levels.
        hessians: Damped second moments of the panel's columns, [J, p, p].
        code: uint8 [m, n], changed in place in the columns `start` to `start` + p.
        start: First column of the panel, of at most 64.
        kept: Planes whose bits stay as they are.

    Returns:
        How much the error of every weight changed, [J, m, p].

    Raises:
        TypeError, ValueError: A tensor is not of that dtype, shape and device, or planes or panel
            are not as said.
    """
    functions = native.compiled()
    assert functions is not None, "the search was called, but it was not built"
    checks.whole(start=start, kept=kept)
    _check_search(levels, hessians, code)
    width = hessians.shape[1]
    moves = torch.empty(len(levels.planes), len(code), width)
    held = [levels.tables, levels.u, levels.v, levels.products]
    pointers = [(ctypes.c_void_p * len(ts))(*[t.data_ptr() for t in ts]) for ts in held]
    sizes = [t.numel() for ts in held for t in ts]
    planes = (ctypes.c_int32 * len(levels.planes))(*levels.planes)
    failed = functions.bitstack_descend(
        *code.shape, start, width, len(levels.planes), kept, planes, *pointers,
        (ctypes.c_int64 * len(sizes))(*sizes), *buffer(hessians), *buffer(levels.weights),
        *buffer(moves), *buffer(code), threads.count(),
    )  # fmt: skip
    if failed:
        library.fail(failed)
    return moves


def _check_search(levels: Searched, hessians: Tensor, code: Tensor) -> None:
    """Refuses what the library cannot see; the rest it says itself."""
    count, cpu = len(levels.planes), checks.CPU
    held = {"table": levels.tables, "u": levels.u, "v": levels.v, "product": levels.products}
    if any(len(ts) != count for ts in held.values()):
        raise ValueError(f"levels: {count} numbers of planes, but not as many of every tensor")
    check_code(code, max(levels.planes, default=0))
    checks.tensor("code", code, (torch.uint8,), device=cpu)
    shapes = {"u": code.shape[:1], "v": code.shape[1:], "product": code.shape}
    for name, ts in held.items():
        for planes, t in zip(levels.planes, ts, strict=True):
            checks.tensor(name, t, _FP32, shapes.get(name, (2**planes,)), cpu)
    checks.tensor("weights", levels.weights, _FP32, (count,), cpu)
    checks.tensor("hessians", hessians, _FP32, (count, *hessians.shape[1:2] * 2), cpu)
