"""What the original predicts at every position of some windows, and how far another model is off.

Only the likeliest tokens are kept, in files. Where the other model's states come from is the
caller's business.
"""

import torch
from torch import Tensor

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill

LIKELY = 256  # tokens kept at a position: 2 KiB
_LEAST = 1e-9  # probability of all others together


class Reference:
    """The original's predictions over the runner's windows.

    Against the loss of text, KL(original || other) has the sampling noise of the difference and not
    that of the text: a few thousand tokens tell differences of 1e-4 nats.
    """

    @torch.no_grad()
    def __init__(self, runner: LayerRunner, spill: Spill) -> None:
        self.spill = spill
        with runner.outer():
            hidden = runner.embed()
        for index in range(len(runner)):
            with runner.layer(index):
                hidden = [runner.step(index, h) for h in hidden]
        with runner.outer():
            for batch, last in enumerate(hidden):
                for part, logits in runner.logits_by_part(batch, last):
                    some = min(LIKELY, logits.shape[-1])
                    found = logits.float().log_softmax(-1).topk(some)
                    spill.put(_key(batch, part), [found.values, found.indices.int()])

    def divergence(self, batch: int, part: slice, logits: Tensor) -> float:
        """Sum over the positions `part` of a batch of the KL, nats, `logits` [b, positions, V].

        Taken over the likeliest tokens and one bin of all others: never more than over all tokens.
        """
        kept, ids = (t.to(logits.device) for t in self.spill.peek(_key(batch, part)))
        found = logits.float().log_softmax(-1).gather(-1, ids.long())
        rest = _others(kept), _others(found)
        total = (kept.exp() * (kept - found)).sum() + (rest[0].exp() * (rest[0] - rest[1])).sum()
        return float(total)


def _key(batch: int, part: slice) -> str:
    return f"likely-{batch}-{part.start}"


def _others(kept: Tensor) -> Tensor:
    """Logarithm of what the probabilities of the kept tokens leave."""
    return (1 - kept.exp().sum(-1)).clamp_min(_LEAST).log()
