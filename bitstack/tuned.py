"""A stack that learns: scales by an optimizer from outside, codes by positions of its own.

Scales are parameters. A weight's position is a number in the range of the table of the top level;
its code is that of the nearest table value. Gradients pass the rounding as if it were not there
(straight-through) and move the position; when it crosses into another cell, the code changes. What
the loss is and which level counts is `tune`'s business.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitstack.container.manifest import StackEntry
from bitstack.kernels import packing
from bitstack.kernels.reference import split_scale
from bitstack.nn import Stack, stacks

Learn = Callable[[Tensor], None]  # takes the gradient of the matrix, [m, n]

_VARIANCE = 0.99  # share of the old in the running mean of squared gradients


class _Product(torch.autograd.Function):
    """`x` times (diag(u) T[code] diag(v))ᵀ with gradients for x and the scales, and that of the
    matrix for `learn`; the matrix is rebuilt on the way back instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, code: Tensor, u: Tensor, v: Tensor, table: Tensor, learn: Learn | None
    ) -> Tensor:
        ctx.save_for_backward(x, code, u, v, table)
        ctx.learn = learn
        return x @ (table[code.int()] * v * u.unsqueeze(1)).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, code, u, v, table = ctx.saved_tensors
        g = gradients[0]
        cells = table[code.int()]
        dx = g @ (cells * v * u.unsqueeze(1))
        dw = g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        felt = dw * cells
        du, dv = felt @ v, felt.T @ u
        dw = dw * v * u.unsqueeze(1)
        dt = torch.bincount(code.flatten().int(), weights=dw.flatten(), minlength=len(table))
        if ctx.learn:
            ctx.learn(dw)
        return dx, None, du, dv, dt.to(table), None


class Positions:
    """Where each weight stands in the range of the table, and how steps are normalised there.

    Held for each weight: its offset from its table value, fp16. The variance of the gradients is
    one number a row and one a column (Adafactor, arXiv 1804.04235).
    """

    def __init__(self, code: Tensor) -> None:
        self.offset = torch.zeros_like(code, dtype=torch.float16)
        self.rows = torch.zeros(code.shape[0], device=code.device)
        self.columns = torch.zeros(code.shape[1], device=code.device)
        self.steps = 0

    def move(self, code: Tensor, gradient: Tensor, table: Tensor, rate: float) -> Tensor:
        """The codes after one step of `rate` against `gradient` [m, n], that of the cells."""
        self.steps += 1
        square = gradient.square()
        self.rows.lerp_(square.mean(1), 1 - _VARIANCE)
        self.columns.lerp_(square.mean(0), 1 - _VARIANCE)
        row = (self.rows / self.rows.mean().clamp_min(1e-30)).sqrt().clamp_min(1e-10)
        column = (self.columns / (1 - _VARIANCE**self.steps)).sqrt().clamp_min(1e-20)
        position = table[code.int()] + self.offset.float()
        position -= gradient / column / row.unsqueeze(1) * rate
        values, order = table.sort()
        moved = order[torch.bucketize(position, (values[1:] + values[:-1]) / 2)]
        self.offset.copy_(position - table[moved])
        return moved.to(torch.uint8)


class TunedStack(nn.Module):
    """A stack whose scales are parameters: relative changes of u and v, changes of T.

    One that `learns` moves its codes too, all planes of them, in steps of `code_rate`.
    """

    def __init__(self, stack: Stack, scales: Sequence[Tensor], *, learns: bool) -> None:
        super().__init__()
        spec = stack.spec
        planes = [stack.get_buffer(f"plane_{j}") for j in range(1, spec.levels + 1)]
        self.code = packing.codes(planes, spec.columns)
        self.rows, self.columns, self.level = spec.rows, spec.columns, spec.levels
        self.start = [scale.float() for scale in scales]
        self.change = nn.ParameterList([torch.zeros_like(scale) for scale in self.start])
        self.positions = Positions(self.code) if learns else None
        self.code_rate = 0.0

    def scales(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """(u, v, T) of `level` as they are now, fp32."""
        u, v, table = split_scale(self.start[level - 1], self.rows, self.columns)
        du, dv, dt = split_scale(self.change[level - 1], self.rows, self.columns)
        return u * (1 + du), v * (1 + dv), table + dt

    def stored(self) -> dict[str, Tensor]:
        """Planes and scale sets of all levels, as a container keeps them."""
        tensors = {}
        for level in range(1, len(self.start) + 1):
            scale = torch.cat(self.scales(level)).detach().clamp(-65504, 65504)
            tensors[f"plane_{level}"] = packing.pack(self.code >> (level - 1) & 1).cpu()
            tensors[f"scale_{level}"] = scale.half().cpu()
        return tensors

    def at_level(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (self.code & (2**self.level - 1), *self.scales(self.level))

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        # At one plane errors are so large that a gradient says little of the cell next door.
        learn = self._learn if self.positions and self.level > 1 else None
        y: Tensor = _Product.apply(x, *self.at_level(), learn)
        return y if bias is None else y + bias

    @torch.no_grad()
    def _learn(self, gradient: Tensor) -> None:
        if self.positions and self.code_rate:
            table = self.scales(len(self.start))[2]
            rate = self.code_rate / 2 ** (self.level - 2)  # half the error, half the step
            self.code = self.positions.move(self.code, gradient, table, rate)

    def dequantize(self) -> Tensor:
        code, u, v, table = self.at_level()
        return table[code.int()] * v * u.unsqueeze(1)

    def gather(self, ids: Tensor) -> Tensor:
        code, u, v, table = self.at_level()
        return table[code[ids].int()] * v * u[ids].unsqueeze(-1)


def make_tunable(
    model: nn.Module,
    entries: Sequence[StackEntry],
    read: Callable[[str], Tensor],
    *,
    codes: bool = False,
) -> Mapping[str, TunedStack]:
    """Let every stack of a packed `model` (all at their top) compute through a TunedStack.

    With `codes`, codes learn too, but not those of embedding and head, which hold all their planes
    already: so few tokens use a row that it would learn these by heart.
    """
    found = stacks(model.float())  # activations in fp32; stacks give up their buffers below
    tuned = {}
    for entry in entries:
        stack = found[entry.name]
        scales = [read(f"{entry.name}.scale_{j}") for j in range(1, entry.levels + 1)]
        learns = codes and entry.layer is not None
        new = TunedStack(stack, [s.to(stack.device) for s in scales], learns=learns)
        stack.product, stack.gather = new.product, new.gather  # type: ignore[method-assign]
        stack.dequantize = new.dequantize  # type: ignore[method-assign]
        stack.hold(0, {"scale_1": scales[0].to(stack.device)})  # by which its device is known
        tuned[entry.name] = new
    return tuned
