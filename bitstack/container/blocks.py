"""Describes the tensors of a stack: names, shapes, dtypes and bytes of blocks and scale sets.

A stack has one of two formats. In `codes`, level j is j planes and the scale set of level j, which
is swapped when the level changes. Levels form chains: those of one chain share nested planes, and
those of the next have finer planes of their own, which take the place of the lower ones. In
`signs`, the published BitStack format (arXiv 2410.23918), level j is the sum of the blocks 1 to j,
each a plane of signs and two factors of `rank`. The other rooms ask here which tensors a level
needs. Does not interpret their values; see `kernels`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

from bitstack.container.dtypes import BYTES
from bitstack.kernels.layout import row_bytes, scale_length


@dataclass(frozen=True)
class TensorSpec:
    """Name within its stack, dtype (as torch names it) and shape of one stored tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * BYTES[self.dtype]


@dataclass(frozen=True)
class StackSpec:
    """The shape of a stack: `levels` levels of a rows x columns matrix.

    `rank` is for signs only. `ends` is for codes only: the last level of every chain but the
    highest, rising and below `levels`; for example (4,) for levels 1 to 4 and 5 to 8. `rotation` is
    for codes only: the seed of the rotation of the inputs, 0 for none (see `kernels.rotation`).
    `outliers` is for codes only: how many weights are kept as they are, beside the codes (see
    `kernels.outliers`).
    """

    format: Literal["codes", "signs"]
    rows: int
    columns: int
    levels: int
    rank: int = 0
    ends: tuple[int, ...] = ()
    rotation: int = 0
    outliers: int = 0

    @property
    def chains(self) -> list[range]:
        """The chains from the lowest on, each the levels whose planes nest in one another."""
        bounds = [0, *self.ends, self.levels]
        return [range(below + 1, end + 1) for below, end in pairwise(bounds)]

    def chain(self, level: int) -> range:
        """Returns the levels that share planes with `level`."""
        return next(chain for chain in self.chains if level in chain)

    def planes(self, level: int) -> list[str]:
        """Returns the names of the planes of codes at `level`, that of the lowest bit first."""
        prefix = _plane_prefix(self.chains.index(self.chain(level)))
        return [f"{prefix}_{j}" for j in range(1, level + 1)]

    def added_blocks(self, level: int) -> list[TensorSpec]:
        """Returns the blocks that `level` adds to the level below; scale sets are not blocks."""
        shape = (self.rows, row_bytes(self.columns))
        if self.format == "codes":
            # The first level of a chain shares no plane with the chain below: all are new.
            new = self.planes(level)[0 if level == self.chain(level).start else -1 :]
            return [TensorSpec(name, "uint8", shape) for name in new]
        plane = TensorSpec(f"plane_{level}", "uint8", shape)
        left = TensorSpec(f"left_{level}", "float16", (self.rows, self.rank))
        right = TensorSpec(f"right_{level}", "float16", (self.rank, self.columns))
        return [plane, left, right]

    def scales(self, level: int) -> list[TensorSpec]:
        """Returns the scale set of exactly this level; none for signs, whose factors are blocks."""
        if self.format == "signs":
            return []
        length = scale_length(self.rows, self.columns, level)
        return [TensorSpec(f"scale_{level}", "float16", (length,))]

    @property
    def kept(self) -> list[TensorSpec]:
        """The outliers, in memory at every level: positions row · columns + column, and values."""
        if not self.outliers:
            return []
        wide = "int32" if self.rows * self.columns < 2**31 else "int64"
        shape = (self.outliers,)
        return [
            TensorSpec("outlier_positions", wide, shape),
            TensorSpec("outlier_values", "float16", shape),
        ]

    def stored(self, level: int) -> list[TensorSpec]:
        """Returns the tensors that a container holds for the step to `level`."""
        first = self.kept if level == 1 else []
        return [*first, *self.added_blocks(level), *self.scales(level)]

    def resident(self, level: int) -> list[TensorSpec]:
        """Returns every tensor in memory at `level`."""
        start = self.chain(level).start
        blocks = [spec for j in range(start, level + 1) for spec in self.added_blocks(j)]
        return [*blocks, *self.scales(level), *self.kept]

    def bytes(self) -> list[int]:
        """Returns the resident bytes at level 1, 2, … `levels`."""
        return [sum(t.bytes for t in self.resident(j)) for j in range(1, self.levels + 1)]

    def all(self) -> Iterator[TensorSpec]:
        """Yields every stored tensor, level by level."""
        for level in range(1, self.levels + 1):
            yield from self.stored(level)


def stored_tensors(
    guard: str,
    dense: Mapping[str, tuple[str, Sequence[int]]],
    stacks: Mapping[str, StackSpec],
    order: Sequence[int],
) -> dict[str, TensorSpec]:
    """Returns every tensor of a container's files by its full name, in universal order.

    Args:
        guard: Name of the empty tensor that comes first; see `Manifest.guard`.
        dense: Name of a dtype and shape of every dense tensor.
        stacks: By name, in the order of their indices.
        order: Index of the stack that each step raises by one level.

    Raises:
        ValueError: Two have the same name.
    """
    named = [(guard, TensorSpec(guard, "float32", (0,)))]
    for name, (dtype, shape) in dense.items():
        named.append((name, TensorSpec(name, dtype, tuple(shape))))
    for name, level in _steps(list(stacks), order):
        named += [(f"{name}.{spec.name}", spec) for spec in stacks[name].stored(level)]
    stored = dict(named)
    if len(stored) != len(named):
        raise ValueError("stacks and dense: two tensors have the same name")
    return stored


def tensor_order(
    dense: Iterable[str], stacks: Mapping[str, StackSpec], order: Sequence[int]
) -> Iterator[str]:
    """Yields the names of all stored tensors but the guard, in universal order: floor first."""
    yield from dense
    for name, level in _steps(list(stacks), order):
        yield from (f"{name}.{t.name}" for t in stacks[name].stored(level))


def _steps(names: Sequence[str], order: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yields stack and level of each step: all at level 1, then as the order raises them."""
    yield from ((name, 1) for name in names)
    level = dict.fromkeys(names, 1)
    for index in order:
        level[names[index]] += 1
        yield names[index], level[names[index]]


def _plane_prefix(chain: int) -> str:
    """How the names of a chain's planes begin: plane, fine, fine2, fine3, …"""
    return ("plane", "fine")[chain] if chain < 2 else f"fine{chain}"
