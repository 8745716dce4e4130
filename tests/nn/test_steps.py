"""Torch's threads in the forwards and in the generation of a packed model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pico
from bitstack import load
from bitstack.kernels import matmul, selection, threads
from bitstack.nn import steps

Folder = Callable[..., Path]
IDS = torch.arange(60)[None] * 7 % pico.VOCABULARY

pytestmark = pytest.mark.skipif(threads.set_openmp() is None, reason="torch has no OpenMP here")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def free(stacked: Folder) -> Folder:
    return lambda name: stacked(name, calibration="none")


def watch(model: Any) -> list[tuple[int, int]]:
    """Threads of torch and of products, as seen by the last norm in every forward from now on."""
    seen: list[tuple[int, int]] = []
    norm = model.model.norm
    norm.register_forward_hook(lambda *_: seen.append((torch.get_num_threads(), threads.count())))
    return seen


def test_a_step_leaves_the_cores_to_the_products(free: Folder) -> None:
    model = load(free("llama-gqa"))
    seen = watch(model)
    cache = model(IDS).past_key_values
    model(IDS[:, :1], past_key_values=cache)
    model(input_ids=IDS[:, :5])
    model(inputs_embeds=model.get_input_embeddings()(IDS[:, :5]))
    model(inputs_embeds=model.get_input_embeddings()(IDS))
    assert seen == [(3, 3), (1, 3), (1, 3), (1, 3), (3, 3)]


def test_a_prompt_leaves_no_panels_behind(free: Folder) -> None:
    if not selection.variants():
        pytest.skip("the compiled kernels were not built")
    model = load(free("llama-gqa"))
    held: list[int] = []
    model.model.norm.register_forward_hook(lambda *_: held.append(len(matmul._idle)))
    matmul.release()
    model(IDS)
    assert held[0] > 0
    assert matmul._idle == []


def test_a_step_behind_a_long_cache(free: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(free("llama-gqa"))
    seen = watch(model)
    monkeypatch.setattr(steps, "_LONG", 61)
    cache = model(IDS).past_key_values
    for _ in range(3):
        model(IDS[:, :1], past_key_values=cache)
    assert seen[1:] == [(1, 3), (1, 3), (3, 3)]


def test_a_large_dense_matrix_takes_all_threads(
    free: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(free("llama-gqa"))
    assert steps.is_packed_whole(model)
    other = load(free("llama-gqa"))
    other.model.layers[0].mlp.up_proj = nn.Linear(40, 44)
    monkeypatch.setattr(steps, "_LARGE", 40 * 44)
    seen = watch(other)
    other(IDS[:, :1])
    assert seen == [(3, 3)]
    monkeypatch.undo()
    assert steps.is_packed_whole(load(free("mixtral")))


@pytest.mark.parametrize("draft", [None, "3bpw"])
def test_generation(free: Folder, draft: str | None) -> None:
    model = load(free("llama-gqa"))
    seen = watch(model)
    between: list[int] = []

    class Watch:
        def put(self, _: torch.Tensor) -> None:
            between.append(torch.get_num_threads())

        def end(self) -> None:
            between.append(torch.get_num_threads())

    model.generate(IDS, max_new_tokens=8, do_sample=False, streamer=Watch(), draft_budget=draft)
    assert set(between) == {1}
    assert seen[0] == (3, 3)
    assert set(seen[1:]) == {(1, 3)}
