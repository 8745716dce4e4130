"""optimum-quanto: types qint2, qint4 and qint8 (it has no 3 bits), scales in 16 bits.

Where a group size does not divide the inputs, the next smaller one that does is taken, as its own
modules do. Ranges come from its HQQ optimiser, which beats its default; 8 bits have one scale a
row.
"""

from collections.abc import Iterator
from functools import partial

import torch
from optimum.quanto import (
    AbsmaxOptimizer,
    HqqOptimizer,
    WeightQBitsTensor,
    qint2,
    qint4,
    qint8,
    quantize_weight,
)
from torch import Tensor

from peers.bench import Bench, Clock, Row
from peers.loops import Done, quantise_each

TYPES = {2: qint2, 4: qint4, 8: qint8}
GROUPS = (32, 64, 128)


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    quantise(torch.ones(1, 128), 4, 32)  # compiles its kernels, once on a machine: not timed
    wanted = bench.limits.bits_of("quanto", (2, 4, 8))
    groups = bench.limits.groups_of(GROUPS)
    settings = [(bits, group) for group in groups for bits in wanted if bits < 8]
    for bits, group in [*settings, *([(8, None)] if 8 in wanted else [])]:
        method, setting = f"quanto g{group}" if group else "quanto rows", f"{bits} bits"
        if done(method, setting):
            continue
        clock, one = Clock(), partial(quantise, bits=bits, group=group)
        weights, size = quantise_each(bench, f"{method} {setting}", one)
        yield bench.row(method, setting, weights, size, clock.seconds)


def quantise(weight: Tensor, bits: int, group: int | None) -> tuple[Tensor, int]:
    """Returns the dequantised weight, and the bytes of everything stored for it."""
    weight, kind = weight.contiguous(), TYPES[bits]
    if group is None:
        scale = AbsmaxOptimizer()(weight, qtype=kind, axis=0).half()
        packed = quantize_weight(weight.half(), kind, 0, scale, optimized=False)
        return packed.dequantize().float(), weight.numel() + scale.nbytes
    while weight.shape[1] % group:
        group -= 32  # as its modules do
    scale, shift = HqqOptimizer()(weight, qtype=kind, axis=0, group_size=group)
    scale, shift = scale.half(), shift.half()
    packed = quantize_weight(
        weight.half(), kind, 0, scale, shift, group_size=group, optimized=False
    )
    assert isinstance(packed, WeightQBitsTensor)
    return packed.dequantize().float(), -(-weight.numel() * bits // 8) + scale.nbytes + shift.nbytes
