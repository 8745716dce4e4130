"""Moments streamed layer by layer are those of the whole model, seen by plain hooks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import pico
from bitstack.calibration import layers as streaming
from bitstack.calibration.fisher import Sensitivity, draw, sensitivity, state
from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.observers import (
    InputObserver,
    Moments,
    observed,
)
from bitstack.calibration.spill import Spill
from bitstack.machine.workers import Workers
from bitstack.original.matrices import Matrix, find_matrices
from bitstack.original.source import open_source

Folder = Callable[..., Path]
LENGTH, SEED = 24, 5
TIED = ["llama-tied", "qwen3", "gemma-2", "gemma-3", "gpt-2", "opt"]
EXPERTS = ["mixtral", "qwen3-moe"]


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
        labels = draw(logits.detach().softmax(-1), uniform.flatten())
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


def streamed_moments(runner: LayerRunner, matrices: list[Matrix]) -> dict[str, Moments]:
    found: dict[str, Moments] = {}
    model = runner.source.model
    with torch.no_grad(), runner.outer():
        hidden = runner.embed()
        for index in range(len(runner)):
            observer = InputObserver()
            inside = [m for m in matrices if m.layer == index]
            after = []
            with runner.layer(index), observed(model, inside, observer):
                for h in hidden:
                    after.append(runner.step(index, h))
                    observer.end_batch()
            hidden = after
            found |= observer.moments
        observer = InputObserver()
        with observed(model, [m for m in matrices if m.layer is None], observer):
            for batch, h in enumerate(hidden):
                runner.logits(batch, h)
                observer.end_batch()
        return found | observer.moments


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return float((a - b).norm()) <= tolerance * float(b.norm())


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_input_moments_are_those_of_the_whole_model(pico_model: Folder, name: str) -> None:
    runner, matrices = streamed(pico_model(name))
    found = streamed_moments(runner, matrices)
    expected = whole(pico_model(name), matrices)
    for matrix in matrices:
        inputs = expected.seen[matrix.name].inputs
        if not inputs:  # an embedding with a head of its own, or an expert no token chose
            assert matrix.name not in found
            continue
        moments = found[matrix.name]
        flat = torch.cat([x.flatten(0, -2) for x in inputs])
        assert moments.tokens == len(flat)
        assert close(moments.second, flat.T @ flat), matrix.name
        assert close(moments.mean(), flat.T @ flat / len(flat))
        if matrix.kind != "expert":
            samples = flat.unflatten(0, (-1, LENGTH))  # OPT flattens them on the way
            norms = samples.square().sum(1).sqrt()
            assert moments.samples == len(norms) == 5
            assert close(moments.mean_norm(), norms.mean(0)), matrix.name
    assert {m.name for m in matrices if m.kind in ("linear", "conv1d")} <= found.keys()


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_gradient_moments_are_those_of_the_whole_model(
    pico_model: Folder, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, matrices = streamed(pico_model(name))
    monkeypatch.setattr(streaming, "LOGITS", 7 * pico.VOCABULARY)  # a few positions at a time
    found = sensitivity(runner, matrices, Spill(tmp_path), seed=SEED, workers=Workers())
    expected = whole(pico_model(name), matrices)
    tokens = sum(ids.numel() for ids in windows())
    for matrix in matrices:
        gradients = expected.seen[matrix.name].gradients
        if not gradients:
            assert matrix.name not in found.rows
            continue
        squares = torch.cat([g.flatten(0, -2) for g in gradients]).square().sum(0)
        assert close(found.rows[matrix.name], squares / tokens, 2e-4), matrix.name
    moment = expected.embedding.T @ expected.embedding / tokens
    # Where positions are added, how much of layer 0's input the row is has to be estimated.
    assert close(found.embedding, moment, 0.1 if name in ("gpt-2", "opt") else 2e-4)
    left = {state(layer, batch) for layer in range(3) for batch in range(3)}
    assert {p.name for p in tmp_path.iterdir()} == left | {f"felt-{part}" for part in range(3)}


def test_labels_are_drawn_as_often_as_the_model_expects_them() -> None:
    chances = torch.tensor([[0.1, 0.0, 0.6, 0.3]]).expand(4000, 4)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(draw(chances, uniform), minlength=4) / 4000
    torch.testing.assert_close(drawn, chances[0], atol=0.03, rtol=0)
    ends = draw(chances[:2], torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [0, 3]


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_see_the_tokens_sent_to_them(pico_model: Folder, name: str) -> None:
    runner, matrices = streamed(pico_model(name))
    found = streamed_moments(runner, matrices)
    experts = [m for m in matrices if m.kind == "expert" and "gate_up" in m.name and m.layer == 0]
    counts = [found[m.name].tokens for m in experts if m.name in found]
    assert sum(counts) == 2 * 5 * LENGTH  # two experts a token
    assert len(set(counts)) > 1
    assert not any(
        torch.equal(found[experts[0].name].second, found[e.name].second)
        for e in experts[1:]
        if e.name in found
    )


def test_matrices_fed_by_one_tensor_share_one_moment(pico_model: Folder) -> None:
    runner, matrices = streamed(pico_model("llama-untied"))
    found = streamed_moments(runner, matrices)
    layer = "model.layers.0."
    q, k, v, o = (found[f"{layer}self_attn.{p}_proj"] for p in "qkvo")
    assert q is k is v
    assert o is not q
    assert found[f"{layer}mlp.gate_proj"] is found[f"{layer}mlp.up_proj"]


def test_moments_of_samples() -> None:
    moments = Moments.zero(3, torch.device("cpu"))
    x = torch.randn(4, 6, 3)
    moments.add(x[:1])
    moments.add(x[1:].bfloat16().float())
    assert (moments.tokens, moments.samples) == (24, 4)
    moments.add(torch.ones(2, 3))  # no batch dimension: one sample
    assert (moments.tokens, moments.samples) == (26, 5)


def test_a_flattened_batch_is_samples_again() -> None:
    observer, x = InputObserver(), torch.randn(3, 5, 4)
    first, second = (Matrix(n, "", "", "linear", 2, 4) for n in "ab")
    observer.saw(first, x)
    observer.saw(second, x.flatten(0, 1))
    assert observer.moments["b"].samples == 3
    torch.testing.assert_close(observer.moments["a"].norms, observer.moments["b"].norms)
    observer.end_batch()
    observer.saw(second, torch.randn(15, 4))  # of another batch: its shape is not known
    assert observer.moments["b"].samples == 4


def test_an_embedding_used_as_input_and_output() -> None:
    """With all rows erring alike, moment and row weights give the exact sum of both costs."""
    torch.manual_seed(0)
    vocabulary, d = 7, 4
    g, h = (x @ x.T for x in torch.randn(2, d, 9))
    rows, uses = torch.rand(vocabulary), torch.arange(vocabulary)
    error = torch.randn(d)
    sense = Sensitivity({}, g)
    share = (uses + 1) / (uses + 1).sum()
    as_input = (share * (error @ g @ error)).sum()
    moment, felt = sense.of_embedding(uses, None, None)
    torch.testing.assert_close((felt * (error @ moment @ error)).sum(), as_input)
    moment, felt = sense.of_embedding(uses, h, rows)
    as_output = (rows * (error @ h @ error)).sum()
    # The weights of the rows sum to one, so that equal errors cost what they cost together.
    torch.testing.assert_close((felt * (error @ moment @ error)).sum(), as_input + as_output)
