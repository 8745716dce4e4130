"""Shapes and bytes of blocks and scale sets, against the formulas.

Also covers `container.dtypes`.
"""

import json
from typing import Literal

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from bitstack.container.blocks import StackSpec
from bitstack.container.dtypes import BYTES, STORED

sizes = st.integers(1, 70)
some_levels = st.sets(st.integers(1, 7))


@st.composite
def specs(draw: st.DrawFn, format: Literal["codes", "signs"]) -> StackSpec:
    levels = draw(st.integers(1, 8))
    rank, ends = (draw(st.integers(1, 5)), set()) if format == "signs" else (0, draw(some_levels))
    below = tuple(sorted(end for end in ends if end < levels))
    return StackSpec(format, draw(sizes), draw(sizes), levels, rank, below)


@given(specs("codes"))
def test_codes_are_planes_and_one_scale_set(spec: StackSpec) -> None:
    """j planes of one bit a weight (rows end on a byte) and 2(m + n) + 2^(j+1) bytes."""
    m, n = spec.rows, spec.columns
    plane = m * -(-n // 8)
    assert spec.bytes() == [
        j * plane + 2 * (m + n) + 2 ** (j + 1) for j in range(1, spec.levels + 1)
    ]


@given(specs("signs"))
def test_published_blocks(spec: StackSpec) -> None:
    """mn/8 + 2k(m + n) bytes a block (arXiv 2410.23918), levels add up."""
    m, n, k = spec.rows, spec.columns, spec.rank
    block = m * -(-n // 8) + 2 * k * (m + n)
    assert spec.bytes() == [j * block for j in range(1, spec.levels + 1)]


def test_bytes_of_the_paper() -> None:
    """One block of rank 16 everywhere: 848 MiB (Llama-2-7B) and 912 MiB (Llama-3.1-8B)."""
    seven = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
    eight = [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(14336, 4096)] * 2 + [(4096, 14336)]
    for layer, mib in ((seven, 848), (eight, 912)):
        total = 32 * sum(StackSpec("signs", m, n, 1, 16).bytes()[0] for m, n in layer)
        assert round(total / 2**20) == mib


@given(st.one_of(specs("codes"), specs("signs")))
def test_a_level_keeps_the_blocks_below_it(spec: StackSpec) -> None:
    for level in range(2, spec.levels + 1):
        below = {t.name for t in spec.resident(level - 1)}
        here = {t.name for t in spec.resident(level)}
        assert here - below == {t.name for t in spec.stored(level)}
        dropped = below if level - 1 in spec.ends else {t.name for t in spec.scales(level - 1)}
        assert below - here == dropped


@given(specs("codes"))
def test_levels_of_one_chain_share_planes_and_no_others_do(spec: StackSpec) -> None:
    for level in range(1, spec.levels + 1):
        own = spec.planes(level)
        assert len(own) == level
        assert [t.name for t in spec.resident(level)] == [*own, f"scale_{level}"]
        for other in range(1, spec.levels + 1):
            shared = set(own) & set(spec.planes(other))
            low, high = sorted((level, other))
            same = not any(low <= end < high for end in spec.ends)
            assert len(shared) == (min(level, other) if same else 0)


@given(st.one_of(specs("codes"), specs("signs")))
def test_every_stored_tensor_once(spec: StackSpec) -> None:
    names = [t.name for t in spec.all()]
    assert len(names) == len(set(names))
    assert set(names) == {t.name for j in range(1, spec.levels + 1) for t in spec.resident(j)}
    for tensor in spec.all():
        assert tensor.bytes == torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype)).nbytes


def test_dtypes_are_those_of_torch_and_safetensors() -> None:
    for code, name in STORED.items():
        one = torch.zeros(1, dtype=getattr(torch, name))
        assert one.itemsize == BYTES[name]
        assert json.loads(save({"x": one})[8:].partition(b"}}")[0] + b"}}")["x"]["dtype"] == code
