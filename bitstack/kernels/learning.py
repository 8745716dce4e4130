"""Does what tuning does most: gradients by scales and cells of a coded matrix, steps of positions.

Both are compiled for CPUs (`cpu/tuning.cpp`) and take fp32 there; elsewhere, for fp64, and where
the library was not built, they run in torch. Does not know how a step is chosen; see
`tuning.positions`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bitstack.kernels import checks, library, native, threads
from bitstack.kernels.codes import buffer, check_code

_FP32 = (torch.float32,)


class Gradients(NamedTuple):
    """Of a loss, by what the matrix diag(u) T[code] diag(v) is made of."""

    u: Tensor  # [m]
    v: Tensor  # [n]
    table: Tensor  # [2^planes]
    cells: Tensor  # [m, n]: by the table value of each weight


def spread(code: Tensor, table: Tensor, u: Tensor, v: Tensor, gradient: Tensor) -> Gradients:
    """Returns the gradients by scales, table and cells of `u T[code] v`.

    Args:
        code: uint8 [m, n]; only as many low bits count as the table needs.
        table: T [2^planes].
        u: Scales of the rows, [m].
        v: Scales of the columns, [n].
        gradient: By the matrix, [m, n]; its memory may be used for the result.

    Raises:
        TypeError, ValueError: A tensor is not of that dtype, shape and device.
    """
    functions = native.compiled()
    if functions is None or not code.is_cpu or gradient.dtype != torch.float32:
        return _spread(code & (len(table) - 1), table, u, v, gradient)
    code, table, u, v, gradient = (t.contiguous() for t in (code, table, u, v, gradient))
    check_code(code, _planes(table))
    shapes = {"table": table.shape[:1], "u": code.shape[:1], "v": code.shape[1:]}
    for (name, shape), value in zip(shapes.items(), (table, u, v), strict=True):
        checks.tensor(name, value, _FP32, shape, checks.CPU)
    checks.tensor("gradient", gradient, _FP32, code.shape, checks.CPU)
    du, dv, dt = (torch.empty_like(t) for t in (u, v, table))
    found = Gradients(du, dv, dt, gradient)
    buffers = [buffer(t) for t in (gradient, found.cells, found.u, found.v, found.table)]
    failed = functions.bitstack_spread(
        *buffer(code), len(table), *buffer(table), *buffer(u), *buffer(v), *code.shape,
        *(part for pair in buffers for part in pair), threads.count(),
    )  # fmt: skip
    if failed:
        library.fail(failed)
    return found


def _spread(code: Tensor, table: Tensor, u: Tensor, v: Tensor, gradient: Tensor) -> Gradients:
    """W_rc = u_r T[code_rc] v_c, so each scale gathers dW times the other two factors."""
    weighted = gradient * table[code.int()]
    du, dv = weighted @ v, weighted.T @ u
    cells = gradient * v * u.unsqueeze(1)
    dt = torch.bincount(code.flatten().int(), weights=cells.flatten(), minlength=len(table))
    return Gradients(du, dv, dt.to(table), cells)


def move(
    code: Tensor, table: Tensor, gradient: Tensor, row: Tensor, column: Tensor, offset: Tensor,
    kept: int, moved: int,
) -> Tensor:  # fmt: skip
    """Returns the codes after each weight's position has gone `gradient * row * column` down.

    Args:
        code: uint8 [m, n], below the length of `table`.
        table: Values of the codes, fp32 [2^planes].
        gradient: fp32 [m, n].
        row: Length of a step, by rows, fp32 [m].
        column: The same by columns, fp32 [n].
        offset: How far each position is from the value of its code, fp16 [m, n]; changed in place.
        kept: Low planes that stay. Where there are any, positions stay within the values that the
            codes of their kept planes have.
        moved: Planes that learn; finer ones change only in a weight where one of these does.

    Raises:
        TypeError, ValueError: A tensor is not of that dtype, shape and device.
    """
    functions = native.compiled()
    if functions is None or not code.is_cpu:
        return _move(code, table, gradient, row, column, offset, kept, moved)
    code, table, gradient = code.contiguous(), table.contiguous(), gradient.contiguous()
    check_code(code, _planes(table))
    checks.whole(kept=kept, moved=moved)
    shapes = {
        "table": table.shape[:1], "row": code.shape[:1], "column": code.shape[1:],
        "gradient": code.shape,
    }  # fmt: skip
    for (name, shape), value in zip(shapes.items(), (table, row, column, gradient), strict=True):
        checks.tensor(name, value, _FP32, shape, checks.CPU)
    checks.tensor("offset", offset, (torch.float16,), code.shape, checks.CPU)
    out = torch.empty_like(code)
    failed = functions.bitstack_move(
        *buffer(code), len(table), *buffer(table), *buffer(row), *buffer(column), *code.shape,
        *buffer(gradient), kept, moved, *buffer(offset), *buffer(offset), *buffer(out),
        threads.count(),
    )  # fmt: skip
    if failed:
        library.fail(failed)
    return out


def _move(
    code: Tensor, table: Tensor, gradient: Tensor, row: Tensor, column: Tensor, offset: Tensor,
    kept: int, moved: int,
) -> Tensor:  # fmt: skip
    position = table[code.int()] + offset - gradient * row.unsqueeze(1) * column
    wanted = _nearest_codes(position, table, code, kept)
    code = torch.where((wanted ^ code) & (2**moved - 1) == 0, code, wanted)
    offset.copy_(position - table[code.int()])
    return code


def _nearest_codes(position: Tensor, table: Tensor, code: Tensor, kept: int) -> Tensor:
    """Returns the codes of the values of `table` nearest to `position` [m, n], uint8.

    Only codes that share the first `kept` planes with `code` are taken: one family. With `kept`,
    positions beyond the range of their family are moved to its end, in place. The values of each
    family are laid out on a stretch of the number line of their own, so that one search serves all
    families.
    """
    families = table.view(-1, 2**kept).T  # a family is a row
    values, order = families.sort(1)
    low, high = values[:, 0], values[:, -1]
    family = torch.arange(2**kept, device=table.device)
    starts = family * (1.01 * (high - low).max() + 1e-6) - low
    if kept:
        own = (code & (2**kept - 1)).int()
        position.clamp_(low[own], high[own])
        shifted = position + starts[own]
    else:
        shifted = position + starts
    # Between two values the border is in their middle; behind the last the next family begins.
    middles = (values[:, 1:] + values[:, :-1]) / 2
    edges = torch.cat([middles, high.unsqueeze(1) + 1e-7], 1) + starts.unsqueeze(1)
    codes = ((order << kept) + family.unsqueeze(1)).flatten().to(torch.uint8)
    return codes[torch.bucketize(shifted, edges.flatten()[:-1], out_int32=True)]


def _planes(table: Tensor) -> int:
    """How many planes the codes of a table have.

    Raises:
        ValueError: The table has not 2^planes values.
    """
    count = table.numel()
    if table.dim() != 1 or not count or count & (count - 1):
        raise ValueError(f"table: shape {list(table.shape)}: pass [2^planes]")
    return count.bit_length() - 1
