"""Keeps what the original predicts at every position of some windows, and measures how far another
model's predictions are from it.

Only the likeliest tokens are kept, in files. Does not run the other model; see
`ordering.layer_loss`.
"""

import torch
from torch import Tensor

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill

KEPT_TOKENS = 256  # likeliest tokens kept at a position
BYTES_PER_TOKEN = 8  # log probability fp32 and token id int32
_LEAST_REST = 1e-9  # probability of all other tokens together, at least: its logarithm is taken


class Reference:
    """The original's predictions over the runner's windows.

    The loss of the text has the sampling noise of the text. KL(original || other) has only that of
    the difference: a few thousand tokens tell differences of 1e-4 nats.
    """

    @torch.no_grad()
    def __init__(self, runner: LayerRunner, spill: Spill) -> None:
        """Runs the original layer by layer and writes its predictions into `spill`."""
        self.spill = spill
        with runner.outer_loaded():
            hidden = runner.embed_all()
        for index in range(len(runner)):
            with runner.layer_loaded(index):
                hidden = [runner.run_layer(index, h) for h in hidden]
        with runner.outer_loaded():
            for batch, last in enumerate(hidden):
                for part, logits in runner.logits_by_part(batch, last):
                    count = min(KEPT_TOKENS, logits.shape[-1])
                    likeliest = logits.float().log_softmax(-1).topk(count)
                    spill.put(_key(batch, part), [likeliest.values, likeliest.indices.int()])

    def divergence(self, batch: int, part: slice, logits: Tensor) -> float:
        """Returns the sum over the positions `part` of a batch of KL(original || other), nats.

        Taken over the likeliest tokens and one bin of all others: never more than over all tokens.

        Args:
            logits: the other model's, [b, positions, vocabulary].
        """
        kept, ids = (t.to(logits.device) for t in self.spill.get(_key(batch, part)))
        other = logits.float().log_softmax(-1).gather(-1, ids.long())
        rest = _log_rest(kept), _log_rest(other)
        total = (kept.exp() * (kept - other)).sum() + (rest[0].exp() * (rest[0] - rest[1])).sum()
        return float(total)


def _key(batch: int, part: slice) -> str:
    return f"likeliest-{batch}-{part.start}"


def _log_rest(log_probabilities: Tensor) -> Tensor:
    """Logarithm of the probability that the kept tokens leave to all others."""
    return (1 - log_probabilities.exp().sum(-1)).clamp_min(_LEAST_REST).log()
