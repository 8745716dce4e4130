"""Scales and codes tuned against the original model: every prefix of the order at once.

What learns are the scale sets (u, v and T of each level) and, by small steps, the codes, by the KL
divergence of the stacked model's predictions from the original's. Each step draws one budget along
the predicted order, so that all levels learn in the company in which they will be used. Memory:
the packed model with codes of a byte a weight, three more where codes learn; the original's final
states lie in files. How a stack learns is `tuned`'s business.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from bitstack.streaming import LayerRunner, Spill
from bitstack.tuned import TunedStack

_LEAST = 1e-9  # nats; below it a budget is as good as the original and has nothing to learn


@dataclass
class Tuner:
    """Tunes the scales of `model`'s stacks, a packed fp32 model with every stack at its top.

    `runner` holds the original and the windows; `levels_at(share)` gives the level of every stack
    for a budget `share` of the way from the floor to the top. `rate` is Adam's for the scales of
    level 1, `code_rate` the step of the codes as a share of the table's range.
    """

    model: nn.Module
    stacks: Sequence[TunedStack]
    runner: LayerRunner
    spill: Spill
    levels_at: Callable[[float], list[int]]
    seed: int = 0
    rate: float = 1e-3
    code_rate: float = 0.0

    def run(self, steps: int, *, show: bool = False) -> None:
        """Adam, cosine to zero, one batch of windows and one budget a step."""
        generator = torch.Generator().manual_seed(self.seed)
        # A level is half as far from the original as the one below: so are the steps it needs.
        top = max(len(s.change) for s in self.stacks)
        groups = [
            {"params": [s.change[i] for s in self.stacks if i < len(s.change)], "lr": rate}
            for i, rate in enumerate(self.rate / 2**i for i in range(top))
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with self.runner.outer():
            self._targets()
            batches = _shuffled(len(self.runner.windows), steps, generator)
            bar = tqdm(batches, desc="tune", disable=None if show else True)
            for step, batch in enumerate(bar):
                share = float(torch.rand((), generator=generator))
                for stack, level in zip(self.stacks, self.levels_at(share), strict=True):
                    stack.level = level
                    stack.code_rate = self.code_rate * (1 + math.cos(math.pi * step / steps)) / 2
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
