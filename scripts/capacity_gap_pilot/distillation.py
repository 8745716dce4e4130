"""Trains a student on a text and on a teacher's predictions, half and half.

The published recipe of MiniMA (arXiv 2311.07052): 0.5 cross-entropy to the text + 0.5 cross-entropy
to the teacher's probabilities at temperature 1, AdamW, cosine schedule with 1% warm-up. Does not
make the student, see `capacity_gap_pilot.pruning`; does not compare students, see
`capacity_gap_pilot.summary`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange
from transformers import PreTrainedModel


def distil(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    blocks: Tensor,
    *,
    batch_size: int = 8,
    learning_rate: float = 3e-4,
    autocast: bool = False,
    seed: int = 0,
) -> float:
    """Trains `student` in place on one pass over `blocks`.

    Args:
        blocks: Token ids, int64 [count, length].
        batch_size: Blocks of a step.
        autocast: Compute the student in bfloat16; its weights keep their dtype.
        seed: Of the order of the blocks.

    Returns:
        The loss of the last step, nats per token.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randperm(len(blocks), generator=generator).split(batch_size)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(len(batches)))
    device = student.device.type
    loss = torch.zeros(())
    student.train()
    for step in trange(len(batches), desc="distil", disable=None, leave=False):
        ids = blocks[batches[step]].to(student.device)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = distillation_loss(student, teacher, ids)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    student.eval()
    return float(loss.detach())


def distillation_loss(student: PreTrainedModel, teacher: PreTrainedModel, ids: Tensor) -> Tensor:
    """Returns 0.5 CE(text) + 0.5 CE(teacher) of `ids` [batch, length], nats per token, a scalar."""
    with torch.no_grad():
        target = teacher(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        target = target.float().softmax(-1)
    logits = student(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    hard = F.cross_entropy(logits, ids[:, 1:].flatten())
    return 0.5 * hard + 0.5 * F.cross_entropy(logits, target)


def _cosine(steps: int):  # type: ignore[no-untyped-def]
    """Returns the factor of the learning rate: linear in the first 1%, then a cosine to 0."""
    warm_up = max(1, math.ceil(0.01 * steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return factor
