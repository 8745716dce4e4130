"""HQQ: half-quadratic optimisation of the zeros, free of data, scales and zeros in fp16.

Groups along the inputs (axis 1), which its authors' fast kernels need, and along the outputs
(axis 0), which its authors find more accurate.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from hqq.core.quantize import Quantizer
from torch import Tensor
from tqdm import tqdm

from peers.bench import Bench, Clock, Row

BITS, GROUPS, AXES = (2, 3, 4, 8), (64, 128), (0, 1)


def rows(bench: Bench, done: Callable[[str, str], bool]) -> Iterator[Row]:
    for axis in AXES:
        for group in GROUPS:
            for bits in BITS:
                method, setting = f"hqq g{group} axis {axis}", f"{bits} bits"
                if done(method, setting):
                    continue
                clock, size, weights = Clock(), 0, {}
                for matrix in tqdm(bench.linear, desc=f"{method} {setting}", disable=None):
                    parameter = bench.model.get_parameter(matrix.parameter)
                    value, taken = quantise(matrix.of(parameter), bits, group, axis)
                    weights[matrix.parameter] = value.T if matrix.transposed else value
                    size += taken
                yield bench.row(method, setting, weights, size, clock.seconds)


def quantise(weight: Tensor, bits: int, group: int, axis: int) -> tuple[Tensor, int]:
    """Dequantised weight, and bytes of everything stored for it."""
    codes, meta = Quantizer.quantize(
        weight.contiguous(), nbits=bits, group_size=group, axis=axis, device="cpu",
        compute_dtype=torch.float16,
    )  # fmt: skip
    kept: dict[str, Any] = {k: v.half() for k, v in meta.items() if isinstance(v, Tensor)}
    value = Quantizer.dequantize(codes, meta | kept | {"compute_dtype": torch.float32})
    return value.float(), codes.nbytes + sum(t.nbytes for t in kept.values())
