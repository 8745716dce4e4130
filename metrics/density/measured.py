"""Density of a model at hand, by its loss on a text, measured as the series of a law was.

A token's loss depends on how much stands before it and on the tokenizer, so losses compare only
over whole windows of one length, in tokens of one kind. The law itself is `capacity_density`'s.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.metrics.density.capacity_density import Density, density_of_loss
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.loss.documents import encode, fingerprint
from bitstack.metrics.loss.sequence_loss import sequence_losses
from bitstack.metrics.statistics.bootstrap import Interval, bootstrap, standard_error

LAW_WINDOW = 256  # tokens, where a law does not say its own


@dataclass(frozen=True)
class WindowedLoss:
    """Mean nats per token, the first token of every window not scored; interval over documents."""

    nats: float
    interval: Interval | None
    windows: int


def windowed_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    window: int,
    *,
    seed: int = 0,
    progress: bool = False,
) -> WindowedLoss:
    """Loss on every document cut into windows of `window` tokens; what is left over is not used.

    Raises UserError if no document is as long as a window.
    """
    pieces, owner = [], []
    for index, ids in enumerate(encode(tokenizer, documents)):
        for first in range(0, len(ids) - window + 1, window):
            pieces.append(ids[first : first + window])
            owner.append(index)
    if not pieces:
        raise UserError(f"text too short: no document has {window} tokens, one window")
    losses = sequence_losses(model, pieces, progress=progress)
    groups = np.unique(owner, return_inverse=True)[1]
    sums = np.column_stack([np.bincount(groups, x) for x in (losses.nats, losses.tokens)])
    nats = float(losses.nats.sum() / losses.tokens.sum())
    return WindowedLoss(
        nats, bootstrap(sums, lambda t: t[..., 0] / t[..., 1], seed=seed), len(pieces)
    )


def law_density(
    opened: Opened,
    law: DensityLaw,
    texts: Sequence[str],
    *,
    seed: int = 0,
    progress: bool = False,
) -> Density:
    """Density of an open model by its loss on `texts`, measured as the law's series was.

    Raises UserError if its tokenizer is another than the series', or no text fills a window. That
    the texts are of the same kind as the series' is left to the caller.
    """
    protocol = law.protocol
    if protocol is not None and protocol.tokenizer != fingerprint(opened.tokenizer):
        raise UserError(
            "the density law counts loss in tokens of another tokenizer; fit one on models with "
            "this tokenizer"
        )
    window = LAW_WINDOW if protocol is None else protocol.window
    loss = windowed_loss(
        opened.model, opened.tokenizer, texts, window, seed=seed, progress=progress
    )
    return density_of_loss(
        law,
        loss=loss.nats,
        loss_error=standard_error(loss.interval),
        parameters=opened.parameters,
        stored_bytes=opened.resident_bytes,
        seed=seed,
    )
