"""A stack that learns: scales by an optimizer from outside, codes by positions of its own.

Scales are parameters. A weight's position is a number in the range of the table of the top level;
its code is that of the nearest table value. Gradients pass the rounding as if it were not there
(straight-through) and move the position; when it crosses into another cell, the code changes. How
positions move is the business of `positions`, what the loss is and which level counts of `tune`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitstack.container.blocks import StackSpec
from bitstack.container.manifest import StackEntry
from bitstack.kernels import packing
from bitstack.kernels.reference import split_scale
from bitstack.nn import stacks
from bitstack.tuning.positions import Positions, lookup

Learn = Callable[[Tensor], None]  # takes the gradient of the matrix, [m, n]

_COARSE = 4  # levels whose errors are far above those of fast products
_COLUMNS = 128  # of a matrix whose codes move as fast as the recipe says


class Planes(NamedTuple):
    """What learns of a chain: its first `kept` planes stay with their scales, those up to `moved`
    move, and the finer ones change only where one of these does."""

    kept: int
    moved: int


def product(x: Tensor, y: Tensor, *, fast: bool) -> Tensor:
    """`x @ y`; if `fast`, of fp32 matrices rounded to bf16 where the machine multiplies these at
    a multiple of the speed (sums stay fp32). They err like codes of 8 bits: too much for these
    alone."""
    if fast and x.dtype == torch.float32 and _multiplies_bf16(x.device.type):
        return (x.bfloat16() @ y.bfloat16()).float()
    return x @ y


@cache
def _multiplies_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def _values(code: Tensor, u: Tensor, v: Tensor, table: Tensor) -> Tensor:
    return lookup(table, code).mul_(v).mul_(u.unsqueeze(1))


class _Product(torch.autograd.Function):
    """`x` times (diag(u) T[code] diag(v))ᵀ with gradients for x and the scales, and that of the
    matrix for `learn`; the matrix is rebuilt on the way back instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, code: Tensor, u: Tensor, v: Tensor, table: Tensor,
        learn: Learn | None, fast: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, code, u, v, table)
        ctx.learn = learn
        return product(x, _values(code, u, v, table).T, fast=fast)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, code, u, v, table = ctx.saved_tensors
        g = gradients[0]
        cells = lookup(table, code)
        # Gradients of one batch are noisier than any rounding.
        dx = product(g, cells * v * u.unsqueeze(1), fast=True)
        dw = product(g.flatten(0, -2).T, x.flatten(0, -2), fast=True)
        felt = dw * cells
        du, dv = felt @ v, felt.T @ u
        dw = dw * v * u.unsqueeze(1)
        dt = torch.bincount(code.flatten().int(), weights=dw.flatten(), minlength=len(table))
        if ctx.learn:
            ctx.learn(dw)
        return dx, None, du, dv, dt.to(table), None, None


def learning(spec: StackSpec) -> list[range]:
    """The chains whose codes learn: all but the highest of several."""
    return spec.chains[:-1] or spec.chains


class TunedStack(nn.Module):
    """A stack whose scales are parameters: relative changes of u and v, changes of T.

    `read` gives the tensors of `spec` by their names within the stack. One that `learns` moves its
    codes too, by steps of `code_rate`, in every chain of levels but the highest of several.
    """

    def __init__(self, spec: StackSpec, read: Callable[[str], Tensor], *, learns: bool) -> None:
        super().__init__()
        self.spec, self.level, self.learns = spec, spec.levels, learns
        self.code = {
            chain[-1]: packing.codes([read(name) for name in spec.planes(chain[-1])], spec.columns)
            for chain in spec.chains
        }
        self.start = {j: read(f"scale_{j}").float() for j in range(1, spec.levels + 1)}
        self.change = nn.ParameterDict(
            {str(level): torch.zeros_like(scale) for level, scale in self.start.items()}
        )
        self.code_rate = 0.0
        self.begin([Planes(0, chain[-1]) for chain in spec.chains])

    @torch.no_grad()
    def begin(self, planes: Sequence[Planes]) -> None:
        """From now on these learn, one for every chain; every weight stands in the middle of its
        cell, and scales are rounded as they are stored."""
        self.planes = dict(zip(self.code, planes, strict=True))
        for level, change in self.change.items():
            self.start[int(level)] = self._stored_scale(int(level)).float()
            change.zero_()
        moving = [chain[-1] for chain in learning(self.spec)] if self.learns else []
        moving = [top for top in moving if self.planes[top].kept < top]
        self.positions = {top: Positions(self.code[top]) for top in moving}

    def free_levels(self) -> list[int]:
        """Those above the planes that stay."""
        chains = zip(self.spec.chains, self.planes.values(), strict=True)
        return [level for chain, planes in chains for level in chain if level > planes.kept]

    @property
    def top(self) -> int:
        """The highest level that shares planes with the present one."""
        return next(top for top in self.code if top in self.spec.chain(self.level))

    def scales(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """(u, v, T) of `level` as they are now, fp32."""
        spec = self.spec
        u, v, table = split_scale(self.start[level], spec.rows, spec.columns)
        du, dv, dt = split_scale(self.change[str(level)], spec.rows, spec.columns)
        return u * (1 + du), v * (1 + dv), table + dt

    def stored(self) -> dict[str, Tensor]:
        """The planes and scale sets, as a container keeps them."""
        tensors = {}
        for top, code in self.code.items():
            for bit, name in enumerate(self.spec.planes(top)):
                tensors[name] = packing.pack(code >> bit & 1).cpu()
        for level in self.start:
            tensors[f"scale_{level}"] = self._stored_scale(level).cpu()
        return tensors

    def _stored_scale(self, level: int) -> Tensor:
        return torch.cat(self.scales(level)).detach().clamp(-65504, 65504).half()

    def at_level(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (self.code[self.top] & (2**self.level - 1), *self.scales(self.level))

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        # At one plane errors are so large that a gradient says little of the cell next door.
        moves = self.top in self.positions and self.level > max(1, self.planes[self.top].kept)
        learn, fast = self._learn if moves else None, self.level <= _COARSE
        y: Tensor = _Product.apply(x, *self.at_level(), learn, fast)
        return y if bias is None else y + bias

    @torch.no_grad()
    def _learn(self, gradient: Tensor) -> None:
        if self.code_rate:
            top = self.top
            table = self.scales(top)[2]
            rate = self.code_rate / 2 ** (self.level - 2)  # half the error, half the step
            # A step is a share of the weights, which are as 1/sqrt(n) in a row of n. Alike in sign,
            # n of them add up to as much at every n if the share is so too (arXiv 2203.03466).
            rate *= (_COLUMNS / self.spec.columns) ** 0.5
            move = self.positions[top].move
            self.code[top] = move(self.code[top], gradient, table, rate, *self.planes[top])

    def dequantize(self) -> Tensor:
        return _values(*self.at_level())

    def gather(self, ids: Tensor) -> Tensor:
        code, u, v, table = self.at_level()
        return lookup(table, code[ids]) * v * u[ids].unsqueeze(-1)


def make_tunable(
    model: nn.Module,
    entries: Sequence[StackEntry],
    read: Callable[[str], Tensor],
    learn: Sequence[bool],
) -> Mapping[str, TunedStack]:
    """Let every stack of a packed `model` compute through a TunedStack; the codes of those that
    `learn` move too."""
    found = stacks(model.float())  # activations in fp32; stacks give up their buffers below
    tuned = {}
    for entry, learns in zip(entries, learn, strict=True):
        stack = found[entry.name]

        def part(name: str, entry: StackEntry = entry, device: Any = stack.device) -> Tensor:
            return read(f"{entry.name}.{name}").to(device)

        new = TunedStack(entry.spec, part, learns=learns)
        stack.product, stack.gather = new.product, new.gather  # type: ignore[method-assign]
        stack.dequantize = new.dequantize  # type: ignore[method-assign]
        stack.hold(0, {"scale": new.start[entry.levels]})  # by which its device is known
        tuned[entry.name] = new
    return tuned
