"""The two stored formats in numpy, from their definition: the package's code is tested by them."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitstack.container.blocks import StackSpec

Tensors = dict[str, Tensor]


def bit_order(spec: StackSpec) -> Literal["little", "big"]:
    return "little" if spec.format == "codes" else "big"


def random_tensors(spec: StackSpec, seed: int = 0) -> Tensors:
    """Any stored tensors of the right shapes; bits beyond the last column are zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for t in spec.all():
        if t.dtype == torch.uint8:
            bits = torch.randint(2, (spec.rows, spec.columns), generator=generator).numpy()
            packed = np.packbits(bits.astype(np.uint8), axis=1, bitorder=bit_order(spec))
            tensors[t.name] = torch.from_numpy(packed)
        else:
            tensors[t.name] = torch.randn(t.shape, generator=generator).to(t.dtype)
    return tensors


def matrix_of(spec: StackSpec, tensors: Tensors, level: int) -> Tensor:
    """The matrix at a level by the definition of the format, in numpy."""
    arrays = {name: t.numpy() for name, t in tensors.items()}
    below = sum(end < level for end in spec.ends)
    kind = ("plane", "fine", *(f"fine{i}" for i in range(2, 8)))[below]
    bits = [
        np.unpackbits(arrays[f"{kind}_{j}"], axis=1, count=spec.columns, bitorder=bit_order(spec))
        for j in range(1, level + 1)
    ]
    if spec.format == "codes":
        scale = arrays[f"scale_{level}"].astype(np.float32)
        u, v, table = np.split(scale, [spec.rows, spec.rows + spec.columns])
        code = sum(b.astype(int) << j for j, b in enumerate(bits))
        return torch.from_numpy(u[:, None] * table[code] * v)
    parts = [
        np.where(b == 1, 1, -1)
        * (arrays[f"left_{j}"].astype(np.float32) @ arrays[f"right_{j}"].astype(np.float32))
        for j, b in enumerate(bits, start=1)
    ]
    return torch.from_numpy(np.sum(parts, axis=0, dtype=np.float32))
