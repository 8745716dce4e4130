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
        if t.dtype == "uint8":
            bits = torch.randint(2, (spec.rows, spec.columns), generator=generator).numpy()
            packed = np.packbits(bits.astype(np.uint8), axis=1, bitorder=bit_order(spec))
            tensors[t.name] = torch.from_numpy(packed)
        elif t.name == "outlier_positions":
            positions = torch.randperm(spec.rows * spec.columns, generator=generator)
            tensors[t.name] = positions[: spec.outliers].sort().values.to(getattr(torch, t.dtype))
        else:
            tensors[t.name] = torch.randn(t.shape, generator=generator).to(getattr(torch, t.dtype))
    return tensors


def rotation(columns: int, seed: int) -> np.ndarray:
    """The rotation Q of a seed, [columns, columns], as a product of whole matrices."""
    q = np.eye(columns)
    size = 2 ** (columns.bit_length() - 1)
    hadamard = np.ones((1, 1))
    while len(hadamard) < size:
        hadamard = np.kron([[1, 1], [1, -1]], hadamard) / np.sqrt(2)
    for step, start in enumerate([0, columns - size][: 1 + (size < columns)] if seed else []):
        signs = [_sign(seed, step * columns + i) for i in range(columns)]
        block = np.eye(columns)
        block[start : start + size, start : start + size] = hadamard
        q = block @ np.diag(signs) @ q
    return q.astype(np.float32)


def _sign(seed: int, index: int) -> int:
    """1 or -1 by the lowest bit of splitmix64."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return 2 * ((z ^ z >> 31) & 1) - 1


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
        rows = (u[:, None] * table[code] * v).astype(np.float32)
        rows = rows @ rotation(spec.columns, spec.rotation)
        if spec.outliers:
            at = np.divmod(arrays["outlier_positions"], spec.columns)
            rows[at] += arrays["outlier_values"].astype(np.float32)
        return torch.from_numpy(rows)
    parts = [
        np.where(b == 1, 1, -1)
        * (arrays[f"left_{j}"].astype(np.float32) @ arrays[f"right_{j}"].astype(np.float32))
        for j, b in enumerate(bits, start=1)
    ]
    return torch.from_numpy(np.sum(parts, axis=0, dtype=np.float32))
