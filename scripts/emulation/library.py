"""Stands in for the compiled library: passes each call to a program in an emulator, and back.

`EmulatedLibrary` has the functions of the C interface with the same arguments, addresses among
them, so that `bitstack.kernels` calls it as it calls the real one. What lies at an address is
copied; how long it is say the counts that every call has. The search of codes, whose arguments are
addresses of addresses, is left out. The program's half is serve.cpp. Knows nothing of what the
functions compute.
"""

import ctypes
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bitstack.kernels.library import MOST_PLANES, Coded

_NUMBER, _INPUT, _OUTPUT, _CODED = range(4)
_ITEM_BYTES = (4, 2, 2)  # of a number of each dtype, in the order of the library
Numbers = Sequence[int]


@dataclass(frozen=True)
class _Buffer:
    """Where a call has an address: which argument counts it, and bytes of one of its items."""

    count: int
    item: Callable[[Numbers], int]
    kind: int = _INPUT


def _fixed(size: int) -> Callable[[Numbers], int]:
    return lambda _: size


def _dtype(at: int) -> Callable[[Numbers], int]:
    return lambda a: _ITEM_BYTES[a[at]] if a[at] in range(len(_ITEM_BYTES)) else 1


def _position(at: int) -> Callable[[Numbers], int]:
    return lambda a: 8 if a[at] else 4


# Number of a function in serve.cpp, where it has a coded matrix, and its buffers by their places.
_FUNCTIONS: dict[str, tuple[int, int | None, dict[int, _Buffer]]] = {
    "bitstack_linear": (1, 2, {
        3: _Buffer(4, _fixed(1)), 5: _Buffer(7, _position(6)), 8: _Buffer(9, _fixed(2)),
        10: _Buffer(11, _dtype(13)), 14: _Buffer(15, _dtype(16)),
        17: _Buffer(18, _dtype(13), _OUTPUT),
    }),
    "bitstack_unpack": (2, 1, {
        2: _Buffer(3, _fixed(8)), 6: _Buffer(7, _dtype(8), _OUTPUT),
    }),
    "bitstack_unpack_halves": (3, 1, {4: _Buffer(5, _fixed(2), _OUTPUT)}),
    "bitstack_scale_columns": (4, None, {
        1: _Buffer(2, _fixed(2)), 4: _Buffer(5, _fixed(2)), 7: _Buffer(8, _fixed(2), _OUTPUT),
    }),
    "bitstack_rotate": (5, None, {
        1: _Buffer(2, _dtype(5)), 6: _Buffer(7, _fixed(1)), 9: _Buffer(10, _dtype(5), _OUTPUT),
    }),
    "bitstack_add_outliers": (6, None, {
        1: _Buffer(3, _position(2)), 4: _Buffer(5, _fixed(2)), 8: _Buffer(9, _dtype(11)),
        12: _Buffer(13, _dtype(11), _OUTPUT),
    }),
    "bitstack_attention": (9, None, {
        1: _Buffer(2, _fixed(1)), 3: _Buffer(4, _dtype(13)), 5: _Buffer(6, _dtype(13)),
        7: _Buffer(8, _dtype(13)), 9: _Buffer(10, _fixed(1)),
        11: _Buffer(12, _dtype(13), _OUTPUT),
    }),
    "bitstack_values": (7, None, {
        0: _Buffer(1, _fixed(1)), 3: _Buffer(4, _fixed(4)), 5: _Buffer(6, _fixed(4)),
        7: _Buffer(8, _fixed(4)), 11: _Buffer(12, _dtype(13), _OUTPUT),
    }),
    "bitstack_sum_by_code": (8, None, {
        0: _Buffer(1, _fixed(1)), 3: _Buffer(4, _fixed(4)), 5: _Buffer(6, _fixed(4)),
        7: _Buffer(8, _fixed(4)), 11: _Buffer(12, _fixed(8), _OUTPUT),
    }),
    "bitstack_spread": (10, None, {
        0: _Buffer(1, _fixed(1)), 3: _Buffer(4, _fixed(4)), 5: _Buffer(6, _fixed(4)),
        7: _Buffer(8, _fixed(4)), 11: _Buffer(12, _fixed(4)), 13: _Buffer(14, _fixed(4), _OUTPUT),
        15: _Buffer(16, _fixed(4), _OUTPUT), 17: _Buffer(18, _fixed(4), _OUTPUT),
        19: _Buffer(20, _fixed(4), _OUTPUT),
    }),
    "bitstack_move": (11, None, {
        0: _Buffer(1, _fixed(1)), 3: _Buffer(4, _fixed(4)), 5: _Buffer(6, _fixed(4)),
        7: _Buffer(8, _fixed(4)), 11: _Buffer(12, _fixed(4)), 15: _Buffer(16, _fixed(2)),
        17: _Buffer(18, _fixed(2), _OUTPUT), 19: _Buffer(20, _fixed(1), _OUTPUT),
    }),
}  # fmt: skip


class EmulatedLibrary:
    """The library that runs in the process of `command`; calls of several threads take turns."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._turn = threading.Lock()
        self._interface = self._answer()
        self.variants: list[tuple[str, list[int]]] = []  # name, and runs, fast, halves
        while (length := self._answer()) >= 0:
            name = self._read(length).decode()
            self.variants.append((name, [self._answer() for _ in range(3)]))

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name not in _FUNCTIONS:
            raise AttributeError(f"{name}: an emulated library has {', '.join(_FUNCTIONS)}")
        return partial(self._call, *_FUNCTIONS[name])

    def bitstack_interface(self) -> int:
        return self._interface

    def bitstack_variant(self, index: int, *flags: Any) -> bytes | None:
        if index >= len(self.variants):
            return None
        name, values = self.variants[index]
        for flag, value in zip(flags, values, strict=True):
            flag._obj.value = value  # what ctypes.byref was given
        return name.encode()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _call(
        self, number: int, coded: int | None, buffers: dict[int, _Buffer], *arguments: int
    ) -> int:
        request = [struct.pack("<qq", number, len(arguments))]
        written: list[tuple[int, int]] = []
        for at, value in enumerate(arguments):
            if at == coded:
                request += [struct.pack("<q", _CODED), *_matrix(Coded.from_address(value))]
            elif at in buffers:
                buffer = buffers[at]
                size = arguments[buffer.count] * buffer.item(arguments)
                request += [struct.pack("<q", buffer.kind), *_bytes(value, size)]
                if buffer.kind == _OUTPUT and value:
                    written.append((value, size))
            else:
                request.append(struct.pack("<qq", _NUMBER, value))
        with self._turn:
            return self._exchange(b"".join(request), written)

    def _exchange(self, request: bytes, written: list[tuple[int, int]]) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(request)
        self._process.stdin.flush()
        result = self._answer()
        for address, size in written:
            ctypes.memmove(address, self._read(size), size)
        return result

    def _answer(self) -> int:
        return int(struct.unpack("<q", self._read(8))[0])

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise RuntimeError(f"the emulated library ended with code {self._process.wait()}")
        return data


def _bytes(address: int, size: int) -> list[bytes]:
    """Length and bytes of a buffer; length -1 where there is none."""
    if not address:
        return [struct.pack("<q", -1)]
    return [struct.pack("<q", size), ctypes.string_at(address, size)]


def _matrix(coded: Coded) -> list[bytes]:
    parts = [struct.pack("<qqqq", coded.rows, coded.columns, coded.planes, coded.scales)]
    parts += _bytes(coded.scale or 0, 2 * coded.scales)
    for plane, size in zip(coded.plane[:MOST_PLANES], coded.bytes, strict=True):
        parts += [struct.pack("<q", size), *_bytes(plane or 0, size)]
    return parts
