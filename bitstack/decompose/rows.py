"""Decomposes a matrix of any number of rows: blocks of them fit into memory, one after another.

Tables and column scales belong to all rows. A matrix of more than one block learns them on some
rows, drawn by how much they count; then every block gets its codes and row scales with them. So
memory does not grow with the rows, and most of the work that scales need is done for a few of them.
Does not know how a block is decomposed; see `decompose.nested`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitstack.container.blocks import StackSpec
from bitstack.decompose.level import StoredScales
from bitstack.decompose.nested import Plan, build_levels
from bitstack.decompose.outliers import split_off
from bitstack.decompose.problem import Problem, Space, make_space, mean_one
from bitstack.decompose.result import Decomposed
from bitstack.decompose.shared import Shared
from bitstack.kernels import packing

BLOCK = 1 << 20  # weights that tables and column scales are learned on
_ONE = 1.5  # of it, up to which a matrix is decomposed as one
_PARTS = 2  # of it, in which a larger matrix is decomposed then
_FEWEST = 256  # rows of a block, however wide


@dataclass(frozen=True)
class _Block:
    """What is stored of some rows, and what they get wrong."""

    planes: list[Tensor]  # packed, chain after chain
    scales: list[StoredScales]  # of every level
    errors: Tensor  # [levels, m]
    squares: float


MapBlocks = Callable[[Callable[[slice], _Block], Iterable[slice]], Iterable[_Block]]


def decompose_codes(
    weight: Tensor,
    plan: Plan,
    *,
    moment: Tensor | None = None,
    row_weights: Tensor | None = None,
    rotation: int = 0,
    outliers: Tensor | None = None,
    map_blocks: MapBlocks = map,
) -> Decomposed:
    """Decomposes `weight` [m, n] into planes under E[x xᵀ] [n, n] and row weights [m].

    Args:
        rotation: The seed of the rotation of its inputs, 0 for none.
        outliers: Positions int64 [k], rising, of weights to be kept as they are.
        map_blocks: Calls a function on the rows of every block, in any order, and gives the
            results in order.
    """
    positions = torch.empty(0, dtype=torch.int64) if outliers is None else outliers
    values, rest = split_off(weight, positions) if len(positions) else (None, weight)
    space = make_space(weight.shape[1], moment, rotation, weight.device)
    weights = mean_one(row_weights, weight)
    blocks = _decompose_blocks(space, rest, weights, plan, map_blocks)
    spec = StackSpec(
        "codes", weight.shape[0], weight.shape[1], plan.blocks, ends=plan.ends, rotation=rotation,
        outliers=len(positions),
    )  # fmt: skip
    tensors = _joined(spec, blocks)
    whole = sum(block.squares for block in blocks)
    if values is not None:
        where, what = spec.kept
        kept = {where.name: positions.to(getattr(torch, where.dtype)), what.name: values}
        tensors = kept | tensors
        whole = sum(_squares(space, weight[rows], weights[rows]) for rows in _slices(weight))
    return Decomposed(spec, tensors, torch.cat([block.errors for block in blocks], 1), whole)


def _squares(space: Space, weight: Tensor, row_weights: Tensor) -> float:
    return float(space.problem(weight, row_weights).row_squares().sum())


def blocks_of(weight: Tensor) -> int:
    """Returns the number of blocks in which `weight` [m, n] is decomposed."""
    return len(_slices(weight))


def rows_of_blocks(rows: int, columns: int) -> tuple[int, int]:
    """Returns how many rows of a matrix [rows, columns] are learned on, and how many are done with
    what was learned there: none, where all are one block."""
    blocks = _slices_of(rows, columns)
    return (rows, 0) if len(blocks) == 1 else (_PARTS * blocks[0].stop, rows)


def _slices(weight: Tensor) -> list[slice]:
    return _slices_of(*weight.shape)


def _slices_of(m: int, n: int) -> list[slice]:
    """Blocks of rows of about the same size."""
    step = max(_FEWEST, int(BLOCK / n))
    if m <= _ONE * step:
        return [slice(0, m)]
    count = _PARTS * -(-m // step)
    step = -(-m // count)
    return [slice(start, min(start + step, m)) for start in range(0, m, step)]


def _decompose_blocks(
    space: Space, weight: Tensor, row_weights: Tensor, plan: Plan, map_blocks: MapBlocks
) -> list[_Block]:
    slices = _slices(weight)
    shared = Shared()
    if len(slices) == 1:
        return [_decompose_rows(space.problem(weight, row_weights), plan, shared)]
    _decompose_rows(_drawn(space, weight, row_weights, _PARTS * slices[0].stop), plan, shared)

    def decompose_block(rows: slice) -> _Block:
        with torch.no_grad():  # which every thread has of its own
            problem = space.problem(weight[rows], row_weights[rows])
            return _decompose_rows(problem, plan, Shared(shared.learned))

    return [*map_blocks(decompose_block, slices)]


def _drawn(space: Space, weight: Tensor, row_weights: Tensor, count: int) -> Problem:
    """The problem of about `count` rows that stand for all.

    A row is drawn in proportion to what it adds to the squared output, and counts by how many it
    stands for: sums over the drawn rows then estimate sums over all with the least noise. Rows are
    taken at equal steps along the sum, so that no draw is left to chance.
    """
    columns = torch.ones_like(space.scale) if space.rotation else space.scale.square()
    squares = [weight[rows].float().square() @ columns for rows in _slices(weight)]
    sizes = torch.cat(squares) * row_weights
    share = sizes / sizes.sum().clamp_min(1e-30) * 0.9 + 0.1 / len(sizes)
    share = (share * count).clamp_max(1.0)
    ends = share.double().cumsum(0)
    taken = ends.floor() > (ends - share.double()).floor()
    taken |= share >= 1
    rows = taken.nonzero()[:, 0]
    return space.problem(weight[rows], row_weights[rows] / share[rows])


def _decompose_rows(problem: Problem, plan: Plan, shared: Shared) -> _Block:
    """Decomposes some rows and packs them; what is measured is what a reader will see."""
    levels = build_levels(problem, plan, shared)
    planes = []
    for end in (*plan.ends, plan.blocks):
        code = levels[end - 1].code
        planes += [packing.pack(code >> bit & 1) for bit in range(end)]
    space, scales, errors = problem.space, [], []
    for level in levels:
        balance = shared.settle(lambda level=level: level.balance(space))  # type: ignore[misc]
        scales.append(level.stored_scales(space, balance))
        errors.append(level.with_scales(space, scales[-1]).row_errors(problem))
    return _Block(planes, scales, torch.stack(errors), float(problem.row_squares().sum()))


def _joined(spec: StackSpec, blocks: list[_Block]) -> dict[str, Tensor]:
    """The tensors of the stack; T and v are the same in all blocks."""
    names = [name for end in (*spec.ends, spec.levels) for name in spec.planes(end)]
    tensors = {
        name: torch.cat([block.planes[i] for block in blocks]) for i, name in enumerate(names)
    }
    for level in range(spec.levels):
        u = torch.cat([block.scales[level][0] for block in blocks])
        tensors[f"scale_{level + 1}"] = torch.cat([u, *blocks[0].scales[level][1:]])
    return tensors
