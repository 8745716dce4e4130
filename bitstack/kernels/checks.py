"""Refuses tensors that a kernel cannot take: wrong dtype, shape, strides or device.

Every message names the argument, what it is and what is allowed. A kernel reads raw memory, so
these checks run before each call, traced or not. Does not know which kernel runs; see
`kernels.dispatch`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bitstack.errors import UserError
from bitstack.kernels.library import MOST_PLANES

CPU = torch.device("cpu")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int32, torch.int64)
_MOST_SCATTERED = 2**23  # columns of a matrix with outliers: the C++ product counts in fp32


def tensor(
    what: str,
    value: Tensor,
    dtypes: Sequence[torch.dtype],
    shape: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> None:
    """Refuses `value` unless it is contiguous, on `device`, and of one of `dtypes` and of `shape`.

    Args:
        what: The argument's name, for the message.
        shape: None for any.
        device: None for any.

    Raises:
        TypeError: It is no tensor.
        ValueError: It is another tensor than that.
    """
    if not isinstance(value, Tensor):  # type hints do not stop a caller of the API
        raise TypeError(f"{what}: is a {type(value).__name__}: pass a tensor")
    if value.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{what}: dtype {value.dtype} is not supported: pass {names}")
    if device is not None and value.device != device:
        raise ValueError(f"{what}: on {value.device}, other arguments on {device}: move one")
    if shape is not None and tuple(value.shape) != tuple(shape):
        raise ValueError(f"{what}: shape {list(value.shape)} is not {list(shape)}")
    if value.layout is not torch.strided or not value.is_contiguous():
        raise ValueError(f"{what}: its memory has gaps or another order: pass .contiguous()")


def matrix(
    planes: Sequence[Tensor], scale: Tensor, rows: int, columns: int, *, trained: bool = False
) -> None:
    """Refuses what is not the planes and the scale set of a rows x columns matrix.

    Args:
        trained: The scale set may be in fp32, for a gradient.

    Raises:
        TypeError: Something is no tensor, or a size no whole number.
        ValueError: Number, dtype, shape, strides or devices are not those of a coded matrix.
    """
    sizes(rows=rows, columns=columns)
    if not 1 <= len(planes) <= MOST_PLANES:
        raise ValueError(f"planes: {len(planes)} given: pass 1 to {MOST_PLANES}")
    length = rows + columns + 2 ** len(planes)
    tensor("scale set", scale, FLOATS if trained else (torch.float16,), (length,))
    for index, plane in enumerate(planes):
        shape = (rows, (columns + 7) // 8)
        tensor(f"plane {index}", plane, (torch.uint8,), shape, scale.device)


def whole(**named: int) -> None:
    """Refuses what is no whole number.

    Raises:
        TypeError: It is another thing.
    """
    for name, number in named.items():
        if not isinstance(number, (int, torch.SymInt)) or isinstance(number, bool):
            raise TypeError(f"{name}: {number!r} is not a whole number")


def sizes(**named: int) -> None:
    """Refuses sizes that are no whole numbers above 0.

    Raises:
        TypeError: One is no whole number.
        ValueError: One is below 1.
    """
    whole(**named)
    for name, size in named.items():
        if size < 1:
            raise ValueError(f"{name}: {size} is not above 0")


def activations(x: Tensor, device: torch.device) -> None:
    """Refuses activations that are not [..., n] of floating point, on the device of the planes.

    Raises:
        UserError: The dtype or the device is another.
        ValueError: They are a single number, or n is 0.
    """
    if not x.is_floating_point():
        raise UserError(f"activations: dtype {x.dtype} is not supported: use float32 or bfloat16")
    if x.device != device:
        raise UserError(f"activations: on {x.device}, packed weights on {device}: move one of them")
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"activations: shape {list(x.shape)} has no columns: pass [..., n]")


def bias(value: Tensor | None, rows: int, device: torch.device) -> None:
    """Refuses a bias that is not [rows] of floating point on `device`; None is none.

    Raises:
        ValueError: It is another.
    """
    if value is not None:
        tensor("bias", value, (*FLOATS, torch.float64), (rows,), device)


def outliers(positions: Tensor, values: Tensor, columns: int, device: torch.device) -> None:
    """Refuses positions that are not int32 or int64 [k], and values that are not fp16 [k].

    Whether positions are inside of the matrix and rise is seen where they are read.

    Raises:
        ValueError: They are others.
    """
    tensor("positions of outliers", positions, _INTEGERS, (positions.numel(),), device)
    tensor("values of outliers", values, (torch.float16,), (positions.numel(),), device)
    if columns >= _MOST_SCATTERED:
        raise ValueError(f"columns: {columns} with outliers: fewer than {_MOST_SCATTERED} can be")


def ids(value: Tensor, rows: int | None = None) -> None:
    """Refuses ids of rows that are no integers, or on the CPU outside of 0 .. `rows` - 1.

    Raises:
        TypeError: They are no tensor of integers.
        IndexError: One is not a row.
    """
    if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype is torch.bool:
        raise TypeError(f"ids: dtype {value.dtype} is not supported: pass int64")
    if value.is_cpu and value.numel():
        least, most = torch.aminmax(value)
        outside = least < 0 or (rows is not None and most >= rows)
        if outside:
            last = "" if rows is None else f" {rows - 1}"
            raise IndexError(f"ids: a row id is outside 0 ..{last}")
