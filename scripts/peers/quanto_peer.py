"""optimum-quanto: qint2, qint4 and qint8 (there are no 3 bits), scales in 16 bits.

Groups as large as asked for, or the largest that divides the inputs as its own modules choose
them; ranges by its HQQ optimiser, which beats its default, and one scale a row at 8 bits.
"""

from collections.abc import Callable, Iterator

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
from tqdm import tqdm

from peers.bench import Bench, Clock, Row

TYPES = {2: qint2, 4: qint4, 8: qint8}
GROUPS = (32, 64, 128)


def rows(bench: Bench, done: Callable[[str, str], bool]) -> Iterator[Row]:
    quantise(torch.ones(1, 128), 4, 32)  # compiles its kernels, once on a machine
    settings = [(bits, group) for group in GROUPS for bits in (2, 4)]
    for bits, group in [*settings, (8, None)]:
        method, setting = f"quanto g{group}" if group else "quanto rows", f"{bits} bits"
        if done(method, setting):
            continue
        clock, size, weights = Clock(), 0, {}
        for matrix in tqdm(bench.linear, desc=f"{method} {setting}", disable=None):
            parameter = bench.model.get_parameter(matrix.parameter)
            value, taken = quantise(matrix.of(parameter), bits, group)
            weights[matrix.parameter] = value.T if matrix.transposed else value
            size += taken
        yield bench.row(method, setting, weights, size, clock.seconds)


def quantise(weight: Tensor, bits: int, group: int | None) -> tuple[Tensor, int]:
    """Dequantised weight, and bytes of everything stored for it."""
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
