"""Tunes scales and codes against the original model, for every prefix of the order at once.

The scale sets (u, v and T of each level) learn, and by small steps the codes. The loss is the KL
divergence of the stacked model's predictions from the original's. Each step draws one budget along
the predicted order, so that all levels learn together with those they will be loaded with. Phases
go from coarse to fine: each keeps what the one before moved, with its scales, and draws where most
levels lie above it; these then come nearer at no cost to those below. Memory: the packed model with
codes of a byte a weight for each chain, and two more where they learn; the original's final states
lie in files. Does not know how a stack learns; see `tuning.tuned_stack`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill
from bitstack.machine.progress import Bar, bar
from bitstack.tuning.divergence import Divergence
from bitstack.tuning.pace import Pace
from bitstack.tuning.tuned_stack import Planes, TunedStack

_LEAST_LOSS = 1e-9  # nats; below it a budget is as good as the original and has nothing to learn


@dataclass(frozen=True)
class Phase:
    """A number of steps in which the same planes learn."""

    steps: int  # as planned; see `tuning.pace`
    planes: Sequence[Sequence[Planes]]  # of every stack, one entry for every chain
    levels_at: Callable[[float], list[int]]  # level of every stack, for a random number in [0, 1)


@dataclass
class Tuner:
    """Tunes `stacks`, through which `model`, a packed fp32 model, computes.

    Both rates halve with every level.
    """

    model: nn.Module
    stacks: Sequence[TunedStack]
    runner: LayerRunner  # the original, and the windows to tune on
    spill: Spill
    seed: int = 0
    scale_rate: float = 1e-3  # Adam's, for the scales of level 1
    code_rate: float = 0.0  # step at level 2 as a share of the table's range, at 128 columns

    def run(
        self,
        phases: Sequence[Phase],
        pace: Pace,
        after_phase: Callable[[int], None] = lambda finished: None,
        *,
        done: int = 0,
        show: bool = False,
    ) -> None:
        """Runs one phase after the other, one batch of windows and one budget a step.

        Args:
            pace: decides the steps of each of `phases`.
            after_phase: called after each phase with how many are finished.
            done: phases that an earlier run has finished; they are left out.
            show: whether a progress bar is shown.
        """
        with (
            self.runner.outer_loaded(),
            bar(desc="tune", show=show, total=sum(pace.steps[done:]), unit="step") as shown,
        ):
            self._spill_targets()
            for index, phase in enumerate(phases[done:], start=done):
                self._run_phase(index, phase, pace, shown)
                after_phase(index + 1)

    def _run_phase(self, index: int, phase: Phase, pace: Pace, shown: Bar) -> None:
        """Adam for the scales, own steps for the codes; both rates fall along a cosine to zero."""
        generator = torch.Generator().manual_seed(self.seed + index)
        # Where time to spare adds steps, they take the same batches again.
        batches = cycle(_shuffled(len(self.runner.windows), phase.steps, generator))
        for stack, planes in zip(self.stacks, phase.planes, strict=True):
            stack.begin_phase(planes)
        optimizer = torch.optim.Adam(self._parameter_groups(), betas=(0.9, 0.99))
        rates, step = [group["lr"] for group in optimizer.param_groups], 0
        while step < pace.steps[index]:
            if pace.is_over:
                pace.stop(index, step)
                break
            cosine = (1 + math.cos(math.pi * step / pace.steps[index])) / 2
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * cosine
            number = float(torch.rand((), generator=generator))
            for stack, level in zip(self.stacks, phase.levels_at(number), strict=True):
                stack.level, stack.code_rate = level, self.code_rate * cosine
            optimizer.zero_grad(set_to_none=True)
            # Its logarithm: each budget's loss counts relative to what it is there.
            self._divergence(next(batches)).clamp_min(_LEAST_LOSS).log().backward()
            optimizer.step()
            step += 1
            pace.finished(index, step)
            shown.total = max(step, sum(pace.steps))
            shown.update()

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The scales that learn, by level, each with its rate. A level is half as far from the
        original as the one below, and so are the steps it needs."""
        by_level: dict[int, list[nn.Parameter]] = {}
        for stack in self.stacks:
            for level in stack.learning_levels():
                by_level.setdefault(level, []).append(stack.scale_changes[str(level)])
        return [
            {"params": own, "lr": self.scale_rate / 2 ** (j - 1)} for j, own in by_level.items()
        ]

    @torch.no_grad()
    def _spill_targets(self) -> None:
        """Writes the original's states behind its last layer to files.

        Those behind lower layers are deleted as they are used. An interrupted run goes on from
        the highest that each batch has come to.
        """
        runner = self.runner
        runner.record_calls()
        passed = [self._layers_passed(batch) for batch in range(len(runner.windows))]
        for index in range(len(runner)):
            if not (left := [batch for batch, layers in enumerate(passed) if layers <= index]):
                continue
            with runner.layer_loaded(index):
                for batch in left:
                    hidden = self._state(index, batch) if index else runner.embed_batch(batch)
                    self.spill.put(_state_key(index + 1, batch), [runner.run_layer(index, hidden)])
                    self.spill.remove(_state_key(index, batch))

    def _layers_passed(self, batch: int) -> int:
        highest = range(len(self.runner), 0, -1)
        return next((n for n in highest if self.spill.has(_state_key(n, batch))), 0)

    def _state(self, layers: int, batch: int) -> Tensor:
        return self.spill.get(_state_key(layers, batch))[0].to(self.runner.device)

    def _divergence(self, batch: int) -> Tensor:
        """KL(original || stacked) over a batch, nats per token."""
        ids = self.runner.windows[batch].to(self.runner.device)
        with torch.no_grad():
            target = self.runner.logits(batch, self._state(len(self.runner), batch))
        stacked = self.model(ids, use_cache=False).logits
        loss: Tensor = Divergence.apply(stacked.flatten(0, 1).float(), target.flatten(0, 1))
        return loss


def _state_key(layers: int, batch: int) -> str:
    """File of the original's states of a batch behind so many layers."""
    return f"target-{layers}-{batch}"


def _shuffled(count: int, steps: int, generator: torch.Generator) -> list[int]:
    """`steps` batch indices: shuffled passes over all of them."""
    passes = [torch.randperm(count, generator=generator) for _ in range(-(-steps // count))]
    return [index for each in passes for index in each.tolist()][:steps]
