"""Measures the density of an open model by its loss on a text, in the way of a law's series.

The loss of a token depends on how much text stands before it and on the tokenizer, so losses
compare only over whole windows of one length and with one tokenizer. Does not compute the density
of a loss; see `metrics.density.capacity_density`.
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

LAW_WINDOW = 256  # tokens, for a law without a protocol


@dataclass(frozen=True)
class WindowedLoss:
    """Mean loss over whole windows; the first token of each has no context and is not scored."""

    nats: float  # per token
    interval: Interval | None  # over documents
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
    """Measures the loss on documents cut into windows of `window` tokens; the rest is not used.

    Raises:
        UserError: no document is as long as a window.
    """
    pieces, owner = [], []  # token ids of every window, and the document it comes from
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
    """Measures the density of an open model by its loss on `texts`, as the law's series was.

    The texts must be of the kind that the series was measured on; this is not checked.

    Raises:
        UserError: the model has another tokenizer than the series, or no text fills a window.
    """
    protocol = law.protocol
    if protocol is not None and protocol.window is None:
        raise UserError(
            f"the density law was fitted on losses of answers ({protocol.text}), not of a text; "
            "take --score, --tasks or --pairs, or another law"
        )
    if protocol is not None and protocol.tokenizer != fingerprint(opened.tokenizer):
        raise UserError(
            "the density law counts loss in tokens of another tokenizer; fit one on models with "
            "this tokenizer"
        )
    window = (None if protocol is None else protocol.window) or LAW_WINDOW
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
