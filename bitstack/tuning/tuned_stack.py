"""A stack that learns: its scales by an optimizer from outside, its codes by positions of its own.

Scales are parameters. A weight's position is a number in the range of the table of its chain's top
level; its code is that of the nearest table value. Rounding to the nearest value has no gradient,
so gradients pass it as if it were not there (straight-through estimator, arXiv 1308.3432) and move
the position; when it crosses into another cell, the code changes. Does not compute gradients or
move positions; see `tuning.coded_product` and `tuning.positions`. Does not know the loss or choose
the level; see `tuning.tuner`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitstack.container.blocks import StackSpec
from bitstack.container.entries import StackEntry
from bitstack.kernels import outliers, packing, rotate
from bitstack.kernels.reference import split_scale
from bitstack.nn import stacks
from bitstack.tuning.coded_product import CodedProduct, coarse_dtype, coded_matrix
from bitstack.tuning.outlier_product import OutlierProduct, two_ways
from bitstack.tuning.positions import Positions

_FAST_LEVELS = 4  # up to this level errors are far above those of bf16 products
_RATE_COLUMNS = 128  # columns of a matrix whose codes move as fast as the recipe says


class Planes(NamedTuple):
    """What learns of a chain: its first `kept` planes stay with their scales, those up to `moved`
    move, and the finer ones change only where one of these does."""

    kept: int
    moved: int


def learning_chains(spec: StackSpec) -> list[range]:
    """Returns the chains whose codes learn: all but the highest of several."""
    return spec.chains[:-1] or spec.chains


class SharedInputs:
    """Rotates the inputs of a product, once where several matrices have the same ones."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._inputs = self._rotated = torch.empty(0)

    def rotated(self, x: Tensor, seed: int, dtype: torch.dtype) -> Tensor:
        """Returns `x` in `dtype`, rotated with `seed`; see `kernels.rotate`."""
        key = seed, dtype, x._version, torch.is_grad_enabled()
        if self._inputs is not x or self._key != key:
            self._inputs, self._key, self._rotated = x, key, rotate(x.to(dtype), seed)
        return self._rotated


class TunedStack(nn.Module):
    """A stack whose scales are parameters: relative changes of u and v, changes of T.

    Relative changes let one learning rate fit rows and columns of any size.
    """

    def __init__(
        self,
        spec: StackSpec,
        read: Callable[[str], Tensor],
        inputs: SharedInputs,
        *,
        codes_learn: bool,
    ) -> None:
        """Reads the tensors of `spec` by their names within the stack.

        With `codes_learn` the codes of every chain in `learning_chains` move too, by steps of
        `code_rate`.
        """
        super().__init__()
        self.inputs = inputs
        self.spec, self.level, self.codes_learn = spec, spec.levels, codes_learn
        self.codes = {  # by the top level of the chain, uint8 [m, n]
            chain[-1]: packing.codes([read(name) for name in spec.planes(chain[-1])], spec.columns)
            for chain in spec.chains
        }
        self.kept = None  # outliers, which do not learn
        if spec.outliers:
            positions, values = (read(tensor.name) for tensor in spec.kept)
            self.kept = two_ways(positions, values, spec.rows, spec.columns)
        self.base_scales = {j: read(f"scale_{j}").float() for j in range(1, spec.levels + 1)}
        self.scale_changes = nn.ParameterDict(
            {str(level): torch.zeros_like(scale) for level, scale in self.base_scales.items()}
        )
        self.code_rate = 0.0
        self.begin_phase([Planes(0, chain[-1]) for chain in spec.chains])

    @torch.no_grad()
    def begin_phase(self, planes: Sequence[Planes]) -> None:
        """Lets `planes`, one entry for every chain, learn from now on.

        Every weight stands at the value of its code again, and scales are rounded as stored.
        """
        self.planes = dict(zip(self.codes, planes, strict=True))
        for level, change in self.scale_changes.items():
            self.base_scales[int(level)] = self._stored_scale(int(level)).float()
            change.zero_()
        moving = [chain[-1] for chain in learning_chains(self.spec)] if self.codes_learn else []
        moving = [top for top in moving if self.planes[top].kept < top]
        self.positions = {top: Positions(self.codes[top]) for top in moving}

    def learning_levels(self) -> list[int]:
        """Returns the levels above the planes that stay: their scales learn."""
        chains = zip(self.spec.chains, self.planes.values(), strict=True)
        return [level for chain, planes in chains for level in chain if level > planes.kept]

    @property
    def chain_top(self) -> int:
        """The highest level that shares planes with the present one."""
        return next(top for top in self.codes if top in self.spec.chain(self.level))

    def scales(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (u, v, T) of `level` as they are now, fp32."""
        spec = self.spec
        u, v, table = split_scale(self.base_scales[level], spec.rows, spec.columns)
        du, dv, dt = split_scale(self.scale_changes[str(level)], spec.rows, spec.columns)
        return u * (1 + du), v * (1 + dv), table + dt

    def stored(self) -> dict[str, Tensor]:
        """Returns the planes and scale sets by their names within the stack, as a container keeps
        them."""
        tensors = {}
        for top, code in self.codes.items():
            for bit, name in enumerate(self.spec.planes(top)):
                tensors[name] = packing.pack(code >> bit & 1).cpu()
        for level in self.base_scales:
            tensors[f"scale_{level}"] = self._stored_scale(level).cpu()
        return tensors

    def _stored_scale(self, level: int) -> Tensor:
        return torch.cat(self.scales(level)).detach().clamp(-65504, 65504).half()

    def _coded_matrix(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(code, u, v, T) of the present level; of the code, the low bits that T needs count."""
        return (self.codes[self.chain_top], *self.scales(self.level))

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns `x` [..., n] times the transposed matrix at the present level, plus `bias`."""
        top = self.chain_top
        # At one plane errors are so large that a gradient says little of the cell next door.
        moves = top in self.positions and self.level > max(1, self.planes[top].kept)
        use_gradient = self._move_codes if moves else None
        dtype = coarse_dtype(x.dtype, x.device.type) if self.level <= _FAST_LEVELS else x.dtype
        rotated = self.inputs.rotated(x, self.spec.rotation, dtype)
        y: Tensor = CodedProduct.apply(rotated, *self._coded_matrix(), use_gradient)
        y = y.to(x.dtype)
        y = OutlierProduct.apply(y, x, self.kept) if self.kept else y
        return y if bias is None else y + bias

    @torch.no_grad()
    def _move_codes(self, gradient: Tensor) -> None:
        """Moves the codes of the present chain one step against `gradient` [m, n]."""
        if self.code_rate:
            top = self.chain_top
            table = self.scales(top)[2]
            rate = self.code_rate / 2 ** (self.level - 2)  # half the error, half the step
            # A step is a share of the weights, which are as 1/sqrt(n) in a row of n. Alike in sign,
            # n of them add up to as much at every n if the share is so too (arXiv 2203.03466).
            rate *= (_RATE_COLUMNS / self.spec.columns) ** 0.5
            move = self.positions[top].move
            self.codes[top] = move(self.codes[top], gradient, table, rate, *self.planes[top])

    def dequantize(self) -> Tensor:
        """Returns the matrix [m, n] at the present level."""
        matrix = rotate(coded_matrix(*self._coded_matrix()), self.spec.rotation, back=True)
        return outliers.add_to(matrix.contiguous(), *self.kept.matrix) if self.kept else matrix

    def gather(self, ids: Tensor) -> Tensor:
        """Returns the rows `ids` of the matrix at the present level, [..., n]."""
        code, u, v, table = self._coded_matrix()
        chosen = code[ids] & (len(table) - 1)
        # Selected along one dimension: the gradient of that takes a fraction of the time.
        cells = table.index_select(0, chosen.flatten().int()).view(chosen.shape)
        rows = cells * v * u[ids].unsqueeze(-1)
        rows = rotate(rows, self.spec.rotation, back=True)
        if self.kept is None:
            return rows
        return rows + outliers.rows(ids, *self.kept.matrix, self.spec.columns)


def make_tunable(
    model: nn.Module,
    entries: Sequence[StackEntry],
    read: Callable[[str], Tensor],
    codes_learn: Sequence[bool],
) -> Mapping[str, TunedStack]:
    """Lets every stack of a packed `model` compute through a TunedStack; returns these by name.

    Args:
        read: gives a tensor by its name in the container.
        codes_learn: for each of `entries`, whether its codes move too.
    """
    stacks_by_name = stacks(
        model.float()
    )  # activations in fp32; stacks give up their buffers below
    tuned, inputs = {}, SharedInputs()
    for entry, learns in zip(entries, codes_learn, strict=True):
        stack = stacks_by_name[entry.name]

        def read_part(name: str, entry: StackEntry = entry, device: Any = stack.device) -> Tensor:
            return read(f"{entry.name}.{name}").to(device)

        new = TunedStack(entry.spec, read_part, inputs, codes_learn=learns)
        stack.product, stack.gather = new.product, new.gather  # type: ignore[method-assign]
        stack.dequantize = new.dequantize  # type: ignore[method-assign]
        # One tensor stays, by which the stack's device is known.
        stack.hold(0, {"scale": new.base_scales[entry.levels]})
        tuned[entry.name] = new
    return tuned
