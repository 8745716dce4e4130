"""Finds and declares the compiled library beside this file, and turns its errors into exceptions.

The functions take raw pointers with the number of elements behind each, and return 0 or the number
of an error (`cpu/arguments.h`). Does not know tensors; see `kernels.native` and `kernels.codes`.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

_pointer, _int32, _int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_flag = ctypes.POINTER(ctypes.c_int32)
_counted: list[Any] = [_pointer, _int64]  # a buffer and how many elements it has
_sized: list[Any] = [_pointer, _int64, _int64]  # and one size of it, such as the tokens of x
_matrix: list[Any] = [_pointer]  # a Coded
_outliers: list[Any] = [_pointer, _int32, _int64, *_counted]

MOST_PLANES = 8
_INTERFACE = 4  # as in cpu/variants.cpp: raise both when a function's arguments change


class Coded(ctypes.Structure):
    """A coded matrix as the library takes it, the struct of this name in `cpu/arguments.h`."""

    _fields_ = (
        ("plane", _pointer * MOST_PLANES),
        ("bytes", _int64 * MOST_PLANES),  # of each plane
        ("scale", _pointer),
        ("scales", _int64),  # numbers in the scale set
        ("rows", _int64),
        ("columns", _int64),
        ("planes", _int64),
    )


class AttentionSizes(ctypes.Structure):
    """Sizes and strides of an attention call, the struct of this name in `cpu/kernel.h`."""

    _fields_ = (
        ("batch", _int64),
        ("heads", _int64),  # of keys
        ("group", _int64),  # heads of queries for each of them
        ("steps", _int64),
        ("tokens", _int64),
        ("key_size", _int64),
        ("value_size", _int64),
        ("query", _int64 * 3),  # strides, in numbers
        ("key", _int64 * 3),
        ("value", _int64 * 3),
        ("mask", _int64 * 3),
        ("scaling", ctypes.c_double),
    )


_ARGUMENTS: dict[str, list[Any]] = {
    "bitstack_linear": [
        _int32, _int32, *_matrix, *_counted, *_outliers, *_sized, _int32, *_counted, _int32,
        *_counted, _int32,
    ],
    "bitstack_unpack": [_int32, *_matrix, *_sized, _int64, *_counted, _int32, _int32],
    "bitstack_unpack_halves": [_int32, *_matrix, _int64, _int64, *_counted, _int32],
    "bitstack_scale_columns": [_int32, *_sized, *_sized, *_counted, _int32],
    "bitstack_rotate": [
        _int32, *_sized, _int64, _int32, *_counted, _int32, *_counted, _int32,
    ],
    "bitstack_add_outliers": [
        _int32, *_outliers, _int64, _int64, *_sized, _int32, *_counted, _int32,
    ],
    "bitstack_attention": [_int32, *_counted * 6, _int32, _int32],
    "bitstack_descend": [
        *[_int64] * 4, *[_int32] * 2, *[_pointer] * 6, *_counted * 4, _int32,
    ],
    "bitstack_values": [
        *_counted, _int32, *_counted * 3, _int64, _int64, *_counted, _int32, _int32,
    ],
    "bitstack_sum_by_code": [
        *_counted, _int32, *_counted * 3, _int64, _int64, *_counted, _int32,
    ],
    "bitstack_spread": [
        *_counted, _int32, *_counted * 3, _int64, _int64, *_counted * 5, _int32,
    ],
    "bitstack_move": [
        *_counted, _int32, *_counted * 3, _int64, _int64, *_counted, _int32, _int32, *_counted * 3,
        _int32,
    ],
}  # fmt: skip

BAD_ID = 10  # the error of an id that is not a row
# In the order of `Error` in cpu/arguments.h, from 1 on.
_ERRORS = [
    (ValueError, "kernel: this processor cannot run this variant, or the variant lacks the call"),
    (ValueError, "planes: their number is not 1 to 8"),
    (ValueError, "sizes: rows, columns or a range of rows are not those of the matrix"),
    (ValueError, "planes: one has not rows x ceil(columns / 8) bytes"),
    (ValueError, "scale set: has not rows + columns + 2^planes numbers"),
    (ValueError, "x: its numbers are not tokens x columns"),
    (ValueError, "out: has not as many numbers as the result"),
    (ValueError, "bias: has not one number a row"),
    (ValueError, "signs: are not two a column"),
    (IndexError, "ids: one is outside of the matrix"),
    (ValueError, "outliers: positions are outside of the matrix or do not rise"),
    (ValueError, "dtype: is not float32, bfloat16 or float16"),
    (ValueError, "codes: sizes of codes, levels or the panel do not fit one another"),
    (ValueError, "attention: sizes or strides do not fit the tensors"),
    (MemoryError, "memory: the system has too little for this product"),
]


@cache
def load() -> ctypes.CDLL | None:
    """Returns the library; None where it was not built, or for another system or version."""
    for path in sorted(Path(__file__).parent.glob("_cpu*")):
        if path.suffix in (".so", ".pyd", ".dylib"):
            try:
                return declare(ctypes.CDLL(str(path)))
            except (OSError, AttributeError):
                continue
    return None


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tells ctypes the arguments and results of all functions; returns `library`.

    Raises:
        AttributeError: The library was built from other sources.
    """
    if library.bitstack_interface() != _INTERFACE:
        raise AttributeError("the library takes other arguments")
    library.bitstack_variant.argtypes = [_int32, _flag, _flag, _flag]
    library.bitstack_variant.restype = ctypes.c_char_p
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, _int32
    return library


def fail(code: int) -> NoReturn:
    """Raises what the error `code`, not 0, of a function of the library means.

    Raises:
        ValueError, IndexError or MemoryError: With one line that names the argument.
    """
    kind, message = _ERRORS[code - 1]
    raise kind(message)
