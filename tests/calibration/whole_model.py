"""What plain hooks on a whole model see: inputs and output gradients of every matrix, to compare
with what a run layer by layer collects."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import pico
from bitstack.calibration.gradients import draw_labels
from bitstack.calibration.layers import LayerRunner
from bitstack.original.matrices import find_matrices
from bitstack.original.matrix import Matrix
from bitstack.original.source import open_source

LENGTH, SEED = 24, 5


@cache
def windows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(pico.VOCABULARY, (5, LENGTH), generator=generator).split(2))


@dataclass
class Seen:
    """Inputs and output gradients of one matrix, token by token; samples by batch."""

    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


@dataclass
class Whole:
    """What plain hooks on the whole model see in a forward and backward pass of all windows."""

    seen: dict[str, Seen]
    embedding: Tensor  # [tokens, d]: the gradient at each embedding row used


def whole(folder: Path, matrices: list[Matrix]) -> Whole:
    model = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    result = Whole({m.name: Seen() for m in matrices}, torch.zeros(0))
    for matrix in matrices:
        module = matrix.tied or matrix.module
        if matrix.kind == "expert" and matrix.name.endswith("gate_up_proj.0"):
            name = matrix.parameter.rpartition(".")[0]
            model.get_submodule(name).register_forward_hook(_experts_hook(name, result.seen))
        elif matrix.kind not in ("expert", "embedding") or matrix.tied:
            model.get_submodule(module).register_forward_hook(_hook(result.seen[matrix.name]))
    embedded: list[Tensor] = []
    model.get_input_embeddings().register_forward_hook(
        lambda _, args, output: embedded.append(output.requires_grad_())
    )
    for batch, ids in enumerate(windows()):
        logits = model(ids).logits.flatten(0, 1)
        uniform = torch.rand(ids.shape, generator=torch.Generator().manual_seed(SEED + batch))
        labels = draw_labels(logits.detach().softmax(-1), uniform.flatten())
        F.cross_entropy(logits, labels, reduction="sum").backward()
    weight = model.get_input_embeddings().weight
    rows = [e.grad * e.detach() / weight[ids] for e, ids in zip(embedded, windows(), strict=True)]
    result.embedding = torch.cat(rows).flatten(0, 1)
    return result


def _hook(seen: Seen) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.inputs.append(args[0].detach())
        output.register_hook(seen.gradients.append)

    return hook


def _experts_hook(name: str, seen: dict[str, Seen]) -> Callable[..., None]:
    """Experts computed again, one by one, from what goes into their module and out of it."""

    def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        hidden, chosen, weights = (a.detach() for a in args)
        output.register_hook(lambda gradient: again(module, hidden, chosen, weights, gradient))

    def again(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor, out: Tensor) -> None:
        for e in range(len(module.gate_up_proj)):
            token, place = torch.where(chosen == e)
            if not len(token):
                continue
            with torch.enable_grad():
                x = hidden[token]
                h = (x @ module.gate_up_proj[e].T).requires_grad_()
                gate, up = h.chunk(2, dim=-1)
                z = F.silu(gate) * up
                y = z @ module.down_proj[e].T
                g = out[token] * weights[token, place].unsqueeze(1)
                (at_h,) = torch.autograd.grad(y, h, g)
            seen[f"{name}.gate_up_proj.{e}"].inputs.append(x)
            seen[f"{name}.gate_up_proj.{e}"].gradients.append(at_h)
            seen[f"{name}.down_proj.{e}"].inputs.append(z.detach())
            seen[f"{name}.down_proj.{e}"].gradients.append(g)

    return hook


def streamed(folder: Path) -> tuple[LayerRunner, list[Matrix]]:
    source = open_source(folder)
    source.model.set_experts_implementation("eager")
    return LayerRunner(source, windows()), find_matrices(source.model)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return float((a - b).norm()) <= tolerance * float(b.norm())
