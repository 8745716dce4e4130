"""Runs the head or one loaded layer backward, with labels that the model draws itself.

Does not know which layers, batches and files there are; see `calibration.fisher`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bitstack.calibration.layers import LayerRunner


def head_gradient(runner: LayerRunner, batch: int, last: Tensor, seed: int) -> Tensor:
    """Gradient of the summed loss at `last`, the output of the last layer."""
    generator = torch.Generator().manual_seed(seed + batch)
    uniform = torch.rand(last.shape[:2], generator=generator)
    last = last.detach().requires_grad_()
    for part, logits in runner.logits_by_part(batch, last):
        logits = logits.float().flatten(0, 1)
        numbers = uniform[:, part].flatten().to(logits.device)
        labels = draw_labels(logits.detach().softmax(-1), numbers)
        F.cross_entropy(logits, labels, reduction="sum").backward()
    assert last.grad is not None
    return last.grad


def draw_labels(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draws one index from each row of `probabilities` [n, k] by a number from 0 to 1, [n]."""
    sums = probabilities.cumsum(-1)
    wanted = (uniform * sums[:, -1]).unsqueeze(1)
    return torch.searchsorted(sums, wanted)[:, 0].clamp_max(probabilities.shape[1] - 1)


def layer_gradient(runner: LayerRunner, index: int, hidden: Tensor, gradient: Tensor) -> Tensor:
    """Takes the gradient at a layer's output back to its input `hidden`."""
    hidden = hidden.detach().requires_grad_()
    runner.run_layer(index, hidden).backward(gradient)
    assert hidden.grad is not None
    return hidden.grad
