"""Does what a decomposition does most with codes: values of codes, sums by code, the search.

Each is compiled for CPUs; elsewhere, and where the library was not built, `values` and
`sum_by_code` run in torch, and the search does so in `decompose.search`. Does not know why it is
called; see `decompose`.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from bitstack.kernels import native, threads


def is_native(code: Tensor) -> bool:
    """Tells whether the compiled functions take this tensor."""
    return code.device.type == "cpu" and native.compiled() is not None


def values(code: Tensor, planes: int, table: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Returns `u T[code] v` fp32 [m, n].

    Args:
        code: uint8 [m, n]; the low `planes` bits count.
        table: T fp32 [2^planes].
        u: Scales of the rows, fp32 [m].
        v: Scales of the columns, fp32 [n].
    """
    if not is_native(code):
        return table[(code & (2**planes - 1)).int()].mul_(v).mul_(u.unsqueeze(1))
    library = native.compiled()
    assert library is not None
    code, table, u, v = (t.contiguous() for t in (code, table, u, v))
    out = torch.empty(code.shape)
    library.bitstack_values(
        code.data_ptr(), 2**planes - 1, table.data_ptr(), u.data_ptr(), v.data_ptr(),
        *code.shape, out.data_ptr(), threads.count(),
    )  # fmt: skip
    return out


def sum_by_code(
    code: Tensor, planes: int, rows: Tensor, columns: Tensor, x: Tensor | None = None
) -> Tensor:
    """Returns the sum of `rows_r columns_c x_rc` over the weights of each code, fp32 [2^planes].

    Args:
        code: uint8 [m, n]; the low `planes` bits count.
        rows: fp32 [m].
        columns: fp32 [n].
        x: fp32 [m, n]; None for ones.
    """
    if not is_native(code):
        weighted = rows.unsqueeze(1) * columns
        weighted = weighted if x is None else weighted.mul_(x)
        index = (code & (2**planes - 1)).int().flatten()
        return torch.bincount(index, weights=weighted.flatten(), minlength=2**planes).float()
    library = native.compiled()
    assert library is not None
    code, rows, columns = code.contiguous(), rows.contiguous(), columns.contiguous()
    x = None if x is None else x.contiguous()
    sums = torch.zeros(2**planes, dtype=torch.float64)
    library.bitstack_sum_by_code(
        code.data_ptr(), 2**planes - 1, rows.data_ptr(), columns.data_ptr(),
        0 if x is None else x.data_ptr(), *code.shape, len(sums), sums.data_ptr(), threads.count(),
    )  # fmt: skip
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
    """
    library = native.compiled()
    assert library is not None
    width = hessians.shape[1]
    moves = torch.empty(len(levels.planes), len(code), width)
    held = [levels.tables, levels.u, levels.v, levels.products]
    assert all(t.is_contiguous() for t in (hessians, code, *(t for ts in held for t in ts)))
    pointers = [(ctypes.c_void_p * len(ts))(*[t.data_ptr() for t in ts]) for ts in held]
    planes = (ctypes.c_int32 * len(levels.planes))(*levels.planes)
    library.bitstack_descend(
        *code.shape, start, width, len(levels.planes), kept, planes, *pointers,
        hessians.data_ptr(), levels.weights.data_ptr(), moves.data_ptr(), code.data_ptr(),
        threads.count(),
    )  # fmt: skip
    return moves
