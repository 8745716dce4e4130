"""The KL divergence of predictions from the original's, with its gradient, a few tokens at a time.

Floor: the logits of both are read once and the gradient is written, 12 bytes a logit; in pieces
that stay in the cache all else is computed there. The gradient takes the place of the logits: fresh
memory of this size would cost as much as the computation. Does not know the models; see
`tuning.tuner`.
"""

from typing import Any

import torch
from torch import Tensor

_PIECE = 1 << 18  # logits


class Divergence(torch.autograd.Function):
    """KL(target || given) of logits [tokens, vocabulary], fp32, in nats per token.

    `given` holds no logits afterwards.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, target: Tensor) -> Tensor:
        tokens = max(1, _PIECE // given.shape[-1])
        total = given.new_zeros(())
        for own, wanted in zip(given.split(tokens), target.split(tokens), strict=True):
            ours, theirs = own.log_softmax(-1), wanted.float().log_softmax(-1)
            probable = theirs.exp()
            total += (probable * theirs.sub_(ours)).sum()
            torch.sub(ours.exp_(), probable, out=own)
        ctx.gradient = given.detach()
        return total / len(given)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient.mul_(gradients[0] / len(ctx.gradient)), None
