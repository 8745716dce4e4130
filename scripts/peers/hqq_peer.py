"""HQQ: zero points by half-quadratic optimisation; scales and zero points in fp16.

Uses no calibration text. Groups lie along the inputs (axis 1), which the fast kernels of its
authors need, or along the outputs (axis 0), which its authors find more accurate.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from hqq.core.quantize import Quantizer
from torch import Tensor

from peers import embedding
from peers.bench import Bench, Clock, Row
from peers.loops import Done, quantise_each, unmeasured

BITS, GROUPS, AXES = (2, 3, 4, 8), (64, 128), (0, 1)


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    for axis in AXES:
        name = f"hqq g{{}} axis {axis}"
        settings = unmeasured(bench, name, BITS, GROUPS, done, same=True)
        for method, setting, bits, group in settings:
            clock, one = Clock(), partial(quantise, bits=bits, group=group, axis=axis)
            weights, size = quantise_each(bench, f"{method} {setting}", one)
            linear = embedding.Quantised(method, setting, bits, weights, size, clock.seconds)
            yield from embedding.rows(bench, done, linear, one)


def quantise(weight: Tensor, bits: int, group: int, axis: int) -> tuple[Tensor, int]:
    """Returns the dequantised weight, and the bytes of everything stored for it."""
    codes, meta = Quantizer.quantize(
        weight.contiguous(), nbits=bits, group_size=group, axis=axis, device="cpu",
        compute_dtype=torch.float16,
    )  # fmt: skip
    stored: dict[str, Any] = {k: v.half() for k, v in meta.items() if isinstance(v, Tensor)}
    value = Quantizer.dequantize(codes, meta | stored | {"compute_dtype": torch.float32})
    return value.float(), codes.nbytes + sum(t.nbytes for t in stored.values())
