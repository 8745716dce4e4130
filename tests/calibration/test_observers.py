"""Moments collected layer by layer are those of the whole model, seen by plain hooks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pico
from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.observers import InputObserver, Moments, observed
from bitstack.original.matrix import Matrix

from .whole_model import LENGTH, close, streamed, whole

Folder = Callable[..., Path]
EXPERTS = ["mixtral", "qwen3-moe"]


def streamed_moments(runner: LayerRunner, matrices: list[Matrix]) -> dict[str, Moments]:
    moments: dict[str, Moments] = {}
    model = runner.source.model
    with torch.no_grad(), runner.outer_loaded():
        hidden = runner.embed_all()
        for index in range(len(runner)):
            observer = InputObserver()
            inside = [m for m in matrices if m.layer == index]
            after = []
            with runner.layer_loaded(index), observed(model, inside, observer):
                for h in hidden:
                    after.append(runner.run_layer(index, h))
                    observer.end_batch()
            hidden = after
            moments |= observer.moments
        observer = InputObserver()
        with observed(model, [m for m in matrices if m.layer is None], observer):
            for batch, h in enumerate(hidden):
                runner.logits(batch, h)
                observer.end_batch()
        return moments | observer.moments


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_input_moments_are_those_of_the_whole_model(pico_model: Folder, name: str) -> None:
    runner, matrices = streamed(pico_model(name))
    moments_by_name = streamed_moments(runner, matrices)
    expected = whole(pico_model(name), matrices)
    for matrix in matrices:
        inputs = expected.seen[matrix.name].inputs
        if not inputs:  # an embedding with a head of its own, or an expert no token chose
            assert matrix.name not in moments_by_name
            continue
        moments = moments_by_name[matrix.name]
        flat = torch.cat([x.flatten(0, -2) for x in inputs])
        assert moments.tokens == len(flat)
        assert close(moments.second, flat.T @ flat), matrix.name
        assert close(moments.mean(), flat.T @ flat / len(flat))
        if matrix.kind != "expert":
            samples = flat.unflatten(0, (-1, LENGTH))  # OPT flattens them on the way
            norms = samples.square().sum(1).sqrt()
            assert moments.samples == len(norms) == 5
            assert close(moments.mean_norm(), norms.mean(0)), matrix.name
    assert {m.name for m in matrices if m.kind in ("linear", "conv1d")} <= moments_by_name.keys()


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_see_the_tokens_sent_to_them(pico_model: Folder, name: str) -> None:
    runner, matrices = streamed(pico_model(name))
    moments_by_name = streamed_moments(runner, matrices)
    experts = [m for m in matrices if m.kind == "expert" and "gate_up" in m.name and m.layer == 0]
    counts = [moments_by_name[m.name].tokens for m in experts if m.name in moments_by_name]
    assert sum(counts) == 2 * 5 * LENGTH  # two experts a token
    assert len(set(counts)) > 1
    assert not any(
        torch.equal(moments_by_name[experts[0].name].second, moments_by_name[e.name].second)
        for e in experts[1:]
        if e.name in moments_by_name
    )


def test_matrices_fed_by_one_tensor_share_one_moment(pico_model: Folder) -> None:
    runner, matrices = streamed(pico_model("llama-untied"))
    moments_by_name = streamed_moments(runner, matrices)
    layer = "model.layers.0."
    q, k, v, o = (moments_by_name[f"{layer}self_attn.{p}_proj"] for p in "qkvo")
    assert q is k is v
    assert o is not q
    assert moments_by_name[f"{layer}mlp.gate_proj"] is moments_by_name[f"{layer}mlp.up_proj"]


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
    observer.observe_input(first, x)
    observer.observe_input(second, x.flatten(0, 1))
    assert observer.moments["b"].samples == 3
    torch.testing.assert_close(observer.moments["a"].norms, observer.moments["b"].norms)
    observer.end_batch()
    observer.observe_input(second, torch.randn(15, 4))  # of another batch: its shape is not known
    assert observer.moments["b"].samples == 4
