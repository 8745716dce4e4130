"""Scales tuned against the original model: every prefix of the order at once.

Only the scale sets learn (u, v and T of each level), by the KL divergence of the stacked model's
predictions from the original's. Each step draws one budget along the universal order, so that all
levels learn in the company in which they will be used. Planes never change. Memory: the packed
model with codes of a byte a weight; the original's final states lie in files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from bitstack.container.manifest import StackEntry
from bitstack.kernels import packing
from bitstack.kernels.reference import split_scale
from bitstack.nn import Stack, stacks
from bitstack.streaming import LayerRunner, Spill

TUNED = 5  # levels above this one are within a thousandth of the original already

_LEAST = 1e-9  # nats; below it a budget is as good as the original and has nothing to learn


class _Product(torch.autograd.Function):
    """`x` times (diag(u) T[code] diag(v))ᵀ with gradients for x and the scales; the matrix is
    rebuilt on the way back instead of kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, code: Tensor, u: Tensor, v: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(x, code, u, v, table)
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
        weights = (dw * v * u.unsqueeze(1)).flatten()
        dt = torch.bincount(code.flatten().int(), weights=weights, minlength=len(table))
        return dx, None, du, dv, dt.to(table)


class TunedStack(nn.Module):
    """A stack whose scales are parameters: relative changes of u and v, changes of T."""

    def __init__(self, stack: Stack, scales: list[Tensor]) -> None:
        super().__init__()
        spec = stack.spec
        planes = [stack.get_buffer(f"plane_{j}") for j in range(1, spec.levels + 1)]
        self.code = packing.codes(planes, spec.columns)
        self.rows, self.columns, self.level = spec.rows, spec.columns, spec.levels
        self.start = [scale.float() for scale in scales]
        self.change = nn.ParameterList([torch.zeros_like(scale) for scale in self.start[:TUNED]])

    def scales(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """(u, v, T) of `level` as they are now, fp32."""
        u, v, table = split_scale(self.start[level - 1], self.rows, self.columns)
        if level > len(self.change):
            return u, v, table
        du, dv, dt = split_scale(self.change[level - 1], self.rows, self.columns)
        return u * (1 + du), v * (1 + dv), table + dt

    def stored(self, level: int) -> Tensor:
        """The scale set of `level` as a container keeps it, fp16 [m + n + 2^level]."""
        return torch.cat(self.scales(level)).detach().clamp(-65504, 65504).half().cpu()

    def at_level(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (self.code & (2**self.level - 1), *self.scales(self.level))

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = _Product.apply(x, *self.at_level())
        return y if bias is None else y + bias

    def dequantize(self) -> Tensor:
        code, u, v, table = self.at_level()
        return table[code.int()] * v * u.unsqueeze(1)

    def gather(self, ids: Tensor) -> Tensor:
        code, u, v, table = self.at_level()
        return table[code[ids].int()] * v * u[ids].unsqueeze(-1)


@dataclass
class Tuner:
    """Tunes the scales of `model`'s stacks, a packed fp32 model with every stack at its top.

    `runner` holds the original and the windows; `levels_at(share)` gives the level of every stack
    for a budget `share` of the way from the floor to where tuning ends.
    """

    model: nn.Module
    stacks: Sequence[TunedStack]
    runner: LayerRunner
    spill: Spill
    levels_at: Callable[[float], list[int]]
    seed: int = 0
    rate: float = 1e-3

    def run(self, steps: int, *, show: bool = False) -> None:
        """Adam, cosine to zero, one batch of windows and one budget a step."""
        generator = torch.Generator().manual_seed(self.seed)
        # A level is half as far from the original as the one below: so are the steps it needs.
        groups = [
            {"params": [s.change[i] for s in self.stacks if i < len(s.change)], "lr": rate}
            for i, rate in enumerate(self.rate / 2**i for i in range(TUNED))
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with self.runner.outer():
            self._targets()
            batches = _shuffled(len(self.runner.windows), steps, generator)
            bar = tqdm(batches, desc="tune", disable=None if show else True)
            for batch in bar:
                share = float(torch.rand((), generator=generator))
                for stack, level in zip(self.stacks, self.levels_at(share), strict=True):
                    stack.level = level
                optimizer.zero_grad(set_to_none=True)
                # Its logarithm: each budget's loss counts relative to what it is there.
                self._loss(batch).clamp_min(_LEAST).log().backward()
                optimizer.step()
                schedule.step()

    @torch.no_grad()
    def _targets(self) -> None:
        """The original's states behind its last layer, into files."""
        hidden = self.runner.embed()
        for index in range(len(self.runner)):
            with self.runner.layer(index):
                hidden = [self.runner.step(index, h) for h in hidden]
        for batch, value in enumerate(hidden):
            self.spill.put(f"target-{batch}", [value])

    def _loss(self, batch: int) -> Tensor:
        """KL(original || stacked), nats per token."""
        ids = self.runner.windows[batch].to(self.runner.device)
        with torch.no_grad():
            state = self.spill.peek(f"target-{batch}")[0].float().to(ids.device)
            target = self.runner.logits(batch, state).float().log_softmax(-1)
        found = self.model(ids, use_cache=False).logits.float().log_softmax(-1)
        return F.kl_div(
            found.flatten(0, 1), target.flatten(0, 1), log_target=True, reduction="batchmean"
        )


def _shuffled(count: int, steps: int, generator: torch.Generator) -> list[int]:
    """`steps` batch indices: shuffled passes over all of them."""
    passes = [torch.randperm(count, generator=generator) for _ in range(-(-steps // count))]
    return torch.cat(passes)[:steps].tolist()


def make_tunable(
    model: nn.Module, entries: Sequence[StackEntry], read: Callable[[str], Tensor]
) -> dict[str, TunedStack]:
    """Let every stack of a packed `model` (all at their top) compute through a TunedStack."""
    found = stacks(model.float())  # activations in fp32; stacks give up their buffers below
    tuned = {}
    for entry in entries:
        stack = found[entry.name]
        scales = [read(f"{entry.name}.scale_{j}") for j in range(1, entry.levels + 1)]
        new = tuned[entry.name] = TunedStack(stack, [s.to(stack.device) for s in scales])
        stack.product, stack.gather = new.product, new.gather  # type: ignore[method-assign]
        stack.dequantize = new.dequantize  # type: ignore[method-assign]
        stack.empty()
    return tuned
