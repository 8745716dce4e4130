"""Sums the negative log-likelihood of each of many texts under a causal language model.

Information capacity, conditional loss and minimal pairs use this one loop. Texts of like length
share a batch and are padded on the right, where no causal model looks. Does not tokenise, see
`metrics.loss.documents`, and does not cut long texts into windows, see `metrics.loss.perplexity`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from bitstack.errors import UserError
from bitstack.machine.progress import bar
from bitstack.original.model_limits import check_ids, positions

BATCH_TOKENS = 4096  # tokens of one forward pass, padding included
SOFTMAX_ELEMENTS = 2**22  # logits turned to fp32 at a time: 16 MiB, about a cache


@dataclass(frozen=True)
class SequenceLosses:
    """Loss of each of n texts, in the order given."""

    nats: NDArray[np.float64]  # [n], sums over the scored tokens
    tokens: NDArray[np.int64]  # [n], scored


def sequence_losses(
    model: nn.Module,
    sequences: Sequence[Sequence[int]],
    *,
    prompts: Sequence[int] | None = None,
    vocabulary: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> SequenceLosses:
    """Sums −ln p over the tokens of each sequence after its prompt.

    Args:
        model: A causal language model, dense or packed.
        sequences: Token ids of each text.
        prompts: How many leading tokens of each sequence are context only, at least 1; None for 1
            everywhere, since the first token has no context.
        vocabulary: Cut the logits to this length before the softmax, which is fp32.
        batch_tokens: Tokens of a forward pass, padding included.
        progress: Show a progress bar.

    Returns:
        One sum for each sequence; 0 nats over 0 tokens where there is nothing to score.

    Raises:
        UserError: a sequence is longer than the model's positions or has an id without an
            embedding, or a loss is not finite.
    """
    prompts = [1] * len(sequences) if prompts is None else prompts
    assert all(p >= 1 for p in prompts), "the first token cannot be scored"
    _check_lengths(model, sequences)
    check_ids(model, max((max(s) for s in sequences if len(s)), default=0))
    nats = np.zeros(len(sequences))
    scored = np.array([max(0, len(s) - p) for s, p in zip(sequences, prompts, strict=True)])
    was_training = model.training
    model.eval()
    try:
        batches = list(_batches(sequences, scored, batch_tokens))
        for batch in bar(batches, desc="scoring", show=progress):
            ids, mask = _padded([sequences[i] for i in batch], [prompts[i] for i in batch])
            losses = token_losses(model, ids, mask, vocabulary)
            owner = torch.arange(len(batch))[:, None].expand_as(mask)[mask]
            sums = torch.zeros(len(batch), dtype=torch.float64)
            nats[batch] = sums.index_add_(0, owner, losses.double().cpu()).numpy()
    finally:
        model.train(was_training)
    if not np.isfinite(nats).all():
        raise UserError("loss of a text is no number; the weights of the model are broken")
    return SequenceLosses(nats, scored.astype(np.int64))


@torch.inference_mode()
def token_losses(
    model: nn.Module, ids: Tensor, mask: Tensor, vocabulary: int | None = None
) -> Tensor:
    """Computes −ln p of the marked tokens of a batch.

    Args:
        model: A causal language model.
        ids: Token ids [b, t].
        mask: Bool [b, t - 1]: which of ids[:, 1:] are scored.
        vocabulary: Cut the logits to this length; None keeps all.

    Returns:
        Nats, fp32 [mask.sum()], row by row.
    """
    logits = forward(model, ids)[:, :-1, :vocabulary]
    mask, targets = mask.to(logits.device), ids[:, 1:].to(logits.device)
    whole = bool(mask.all())
    rows = logits.flatten(0, 1) if whole else logits[mask]
    wanted = targets.flatten() if whole else targets[mask]
    step = max(1, SOFTMAX_ELEMENTS // rows.shape[-1])
    parts = zip(rows.split(step), wanted.split(step), strict=True)
    return torch.cat([F.cross_entropy(x.float(), y, reduction="none") for x, y in parts])


def forward(model: nn.Module, ids: Tensor) -> Tensor:
    """Returns the logits [b, t, vocabulary] of `ids` [b, t], computed without a KV cache."""
    device = next(chain(model.parameters(), model.buffers()), ids).device
    options = {"use_cache": False} if isinstance(model, PreTrainedModel) else {}
    logits: Tensor = model(input_ids=ids.to(device), **options).logits
    return logits


def _check_lengths(model: nn.Module, sequences: Sequence[Sequence[int]]) -> None:
    longest, limit = max(map(len, sequences), default=0), positions(model)
    if limit is not None and longest > limit:
        raise UserError(
            f"text of {longest} tokens is longer than the {limit} positions of the model; "
            "give a smaller maximum length"
        )


def _batches(
    sequences: Sequence[Sequence[int]], scored: NDArray, batch_tokens: int
) -> list[list[int]]:
    """Returns batches of text indices, longest texts first, of at most `batch_tokens` each."""
    wanted = [index for index in range(len(sequences)) if scored[index]]
    order = sorted(wanted, key=lambda index: -len(sequences[index]))
    batches: list[list[int]] = []
    for index in order:
        longest = len(sequences[batches[-1][0]]) if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _padded(sequences: list[Sequence[int]], prompts: list[int]) -> tuple[Tensor, Tensor]:
    """Returns ids int64 [b, t], padded with 0 on the right, and the mask of those to score."""
    length = max(map(len, sequences))
    ids = torch.zeros(len(sequences), length, dtype=torch.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    position = torch.arange(1, length)
    ends = torch.tensor([len(s) for s in sequences])[:, None]
    return ids, (position >= torch.tensor(prompts)[:, None]) & (position < ends)
