"""What the tensors of a stack are: names, shapes, dtypes and bytes of every block and scale set.

A stack in one of two formats. `codes`: level j is j planes and scale set j, which is swapped when
the level changes. Levels form chains: those of one chain share nested planes, and those of the next
have finer planes of their own, which take the place of the lower ones. `signs`, the published
BitStack format: level j is the sum of the blocks 1 to j, each a plane of signs and two factors of
`rank`. The rest of the code asks here which tensors a level needs and never looks inside a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from bitstack.kernels.packing import row_bytes
from bitstack.kernels.reference import scale_length


@dataclass(frozen=True)
class TensorSpec:
    """Name within its stack, dtype and shape of one stored tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class StackSpec:
    """The shape of a stack: `levels` levels of a rows x columns matrix; `rank` for signs only.

    `ends`, for codes: the last level of every chain but the highest, rising and below `levels`.
    """

    format: Literal["codes", "signs"]
    rows: int
    columns: int
    levels: int
    rank: int = 0
    ends: tuple[int, ...] = ()

    @property
    def chains(self) -> list[range]:
        """The levels whose planes nest in one another, from the lowest on."""
        bounds = [0, *self.ends, self.levels]
        return [range(below + 1, end + 1) for below, end in pairwise(bounds)]

    def chain(self, level: int) -> range:
        """The levels that share planes with `level`."""
        return next(chain for chain in self.chains if level in chain)

    def planes(self, level: int) -> list[str]:
        """Names of the planes of codes at `level`, that of the lowest bit first."""
        kind = _kind(self.chains.index(self.chain(level)))
        return [f"{kind}_{j}" for j in range(1, level + 1)]

    def block(self, level: int) -> list[TensorSpec]:
        """What level `level` adds to those below it in its chain and every higher one keeps."""
        shape = (self.rows, row_bytes(self.columns))
        if self.format == "codes":
            new = self.planes(level)[0 if level == self.chain(level).start else -1 :]
            return [TensorSpec(name, torch.uint8, shape) for name in new]
        plane = TensorSpec(f"plane_{level}", torch.uint8, shape)
        left = TensorSpec(f"left_{level}", torch.float16, (self.rows, self.rank))
        right = TensorSpec(f"right_{level}", torch.float16, (self.rank, self.columns))
        return [plane, left, right]

    def scales(self, level: int) -> list[TensorSpec]:
        """What is resident at exactly this level."""
        if self.format == "signs":
            return []
        length = scale_length(self.rows, self.columns, level)
        return [TensorSpec(f"scale_{level}", torch.float16, (length,))]

    def stored(self, level: int) -> list[TensorSpec]:
        """What a container holds for the step to `level`."""
        return [*self.block(level), *self.scales(level)]

    def resident(self, level: int) -> list[TensorSpec]:
        """Everything in memory at `level`."""
        start = self.chain(level).start
        blocks = [spec for j in range(start, level + 1) for spec in self.block(j)]
        return [*blocks, *self.scales(level)]

    def bytes(self) -> list[int]:
        """Resident bytes at level 1, 2, … `levels`."""
        return [sum(t.bytes for t in self.resident(j)) for j in range(1, self.levels + 1)]

    def all(self) -> Iterator[TensorSpec]:
        """Every stored tensor, level by level."""
        for level in range(1, self.levels + 1):
            yield from self.stored(level)


def _kind(chain: int) -> str:
    """What the planes of a chain are called, by its place."""
    return ("plane", "fine")[chain] if chain < 2 else f"fine{chain}"
