"""Scales and codes tuned against the original model: every prefix of the order at once.

What learns are the scale sets (u, v and T of each level) and, by small steps, the codes, by the KL
divergence of the stacked model's predictions from the original's. Each step draws one budget along
the predicted order, so that all levels learn in the company in which they will be used. Phases go
from coarse to fine: each keeps what the one before moved, with its scales, and draws where most
levels lie above it; these then come nearer at no cost to those below. Memory: the packed model with
codes of a byte a weight for each chain, and two more where they learn; the original's final states
lie in files. How a stack learns is `tuned`'s business.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill
from bitstack.tuning.tuned_stack import Planes, TunedStack

_LEAST = 1e-9  # nats; below it a budget is as good as the original and has nothing to learn


@dataclass(frozen=True)
class Phase:
    """`steps` in which `planes` learn, one entry for every chain of every stack;
    `levels_at(share)` gives the level of every stack for a budget `share` of the way from the
    smallest to the largest."""

    steps: int
    planes: Sequence[Sequence[Planes]]
    levels_at: Callable[[float], list[int]]


@dataclass
class Tuner:
    """Tunes the scales of `model`'s stacks, a packed fp32 model that computes through `stacks`.

    `runner` holds the original and the windows. `rate` is Adam's for the scales of level 1,
    `code_rate` the step of the codes at level 2 as a share of the table's range, in a matrix of 128
    columns; both halve with every level.
    """

    model: nn.Module
    stacks: Sequence[TunedStack]
    runner: LayerRunner
    spill: Spill
    seed: int = 0
    rate: float = 1e-3
    code_rate: float = 0.0

    def run(
        self,
        phases: Sequence[Phase],
        keep: Callable[[int], None] = lambda finished: None,
        *,
        done: int = 0,
        show: bool = False,
    ) -> None:
        """One phase after the other, one batch of windows and one budget a step.

        The first `done` were run before; after each of the others `keep` hears how many are.
        """
        steps = sum(phase.steps for phase in phases[done:])
        with self.runner.outer(), tqdm(total=steps, desc="tune", disable=not show or None) as bar:
            self._targets()
            for index, phase in enumerate(phases[done:], start=done):
                self._phase(phase, torch.Generator().manual_seed(self.seed + index), bar)
                keep(index + 1)

    def _phase(self, phase: Phase, generator: torch.Generator, bar: tqdm) -> None:
        """Adam, cosine to zero."""
        batches = iter(_shuffled(len(self.runner.windows), phase.steps, generator))
        for stack, planes in zip(self.stacks, phase.planes, strict=True):
            stack.begin(planes)
        optimizer = torch.optim.Adam(self._groups(), betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, phase.steps))
        for step in range(phase.steps):
            share = float(torch.rand((), generator=generator))
            for stack, level in zip(self.stacks, phase.levels_at(share), strict=True):
                stack.level = level
                share_left = (1 + math.cos(math.pi * step / phase.steps)) / 2
                stack.code_rate = self.code_rate * share_left
            optimizer.zero_grad(set_to_none=True)
            # Its logarithm: each budget's loss counts relative to what it is there.
            self._loss(next(batches)).clamp_min(_LEAST).log().backward()
            optimizer.step()
            schedule.step()
            bar.update()

    def _groups(self) -> list[dict[str, Any]]:
        """Scales by level, those that learn: one is half as far from the original as that below,
        and so are the steps it needs."""
        found: dict[int, list[nn.Parameter]] = {}
        for stack in self.stacks:
            for level in stack.free_levels():
                found.setdefault(level, []).append(stack.change[str(level)])
        return [{"params": own, "lr": self.rate / 2 ** (j - 1)} for j, own in found.items()]

    @torch.no_grad()
    def _targets(self) -> None:
        """The original's states behind its last layer, into files, where those of the layers below
        lie before."""
        runner = self.runner
        runner.learn()
        for index in range(len(runner)):
            with runner.layer(index):
                for batch in range(len(runner.windows)):
                    hidden = self._state(batch) if index else runner.enter(batch)
                    self.spill.put(_target(batch), [runner.step(index, hidden)])

    def _state(self, batch: int) -> Tensor:
        return self.spill.peek(_target(batch))[0].to(self.runner.device)

    def _loss(self, batch: int) -> Tensor:
        """KL(original || stacked), nats per token."""
        ids = self.runner.windows[batch].to(self.runner.device)
        with torch.no_grad():
            target = self.runner.logits(batch, self._state(batch)).float().log_softmax(-1)
        found = self.model(ids, use_cache=False).logits.float().log_softmax(-1)
        return F.kl_div(
            found.flatten(0, 1), target.flatten(0, 1), log_target=True, reduction="batchmean"
        )


def _target(batch: int) -> str:
    return f"target-{batch}"


def _shuffled(count: int, steps: int, generator: torch.Generator) -> list[int]:
    """`steps` batch indices: shuffled passes over all of them."""
    passes = [torch.randperm(count, generator=generator) for _ in range(-(-steps // count))]
    return [index for each in passes for index in each.tolist()][:steps]
