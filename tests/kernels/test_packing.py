"""Packed bits are numpy's, in both orders, and come back; planes join to codes.

Also covers `kernels.layout`.
"""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitstack.kernels import layout, packing

Order = Literal["little", "big"]
ORDERS = st.sampled_from(["little", "big"])


@st.composite
def bit_matrices(draw: st.DrawFn) -> Tensor:
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return torch.rand(shape, generator=generator) < 0.5


@given(bit_matrices(), ORDERS, st.booleans())
def test_packed_and_unpacked(bits: Tensor, order: Order, as_numbers: bool) -> None:
    plane = packing.pack(bits.int() if as_numbers else bits, order=order)
    expected = np.packbits(bits.numpy(), axis=1, bitorder=order)  # unused bits are zero
    assert plane.dtype == torch.uint8
    assert torch.equal(plane, torch.from_numpy(expected))
    assert plane.shape[1] == layout.row_bytes(bits.shape[1])
    assert torch.equal(packing.unpack(plane, bits.shape[1], order=order), bits.byte())


@pytest.mark.parametrize(("columns", "size"), [(1, 1), (8, 1), (9, 2), (64, 8), (65, 9)])
def test_row_bytes(columns: int, size: int) -> None:
    assert layout.row_bytes(columns) == size


def test_which_bit_is_which_column() -> None:
    bits = torch.zeros(1, 16)
    bits[0, [0, 10]] = 1
    assert packing.pack(bits).tolist() == [[0b00000001, 0b00000100]]
    assert packing.pack(bits, order="big").tolist() == [[0b10000000, 0b00100000]]


@given(st.integers(1, 8), st.integers(1, 30), st.integers(0, 999))
def test_codes_of_planes(planes: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    code = torch.randint(2**planes, (5, columns), generator=generator).byte()
    packed = [packing.pack(code >> p & 1) for p in range(planes)]
    before = [plane.clone() for plane in packed]
    assert torch.equal(packing.codes(packed, columns), code)
    assert all(torch.equal(a, b) for a, b in zip(packed, before, strict=True))
