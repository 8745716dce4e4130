"""Forwards and resizes of one model from several threads: they wait, or run at once."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pico
from bitstack import load, resize
from bitstack.container.manifest import read_manifest

IDS = torch.arange(40)[None] * 7 % pico.VOCABULARY


@pytest.fixture(scope="module")
def container(stacked: Callable[..., Path]) -> Path:
    return stacked("llama-gqa", calibration="none")


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(IDS).logits


@pytest.mark.parametrize("failing", [ValueError, KeyboardInterrupt])
def test_a_forward_that_ends_early_lets_go(container: Path, failing: type[BaseException]) -> None:
    model = load(container, level=2)

    def fail(*_: Any) -> None:
        raise failing

    hook = model.model.layers[0].register_forward_hook(fail)
    with pytest.raises(failing):
        model(IDS)
    hook.remove()
    everything = model.bitstack.manifest.budgets.total_bytes
    assert resize(model) == everything
    with pytest.raises(ValueError, match="input_ids"):
        model()  # refused before any layer runs
    assert resize(model, "5bpw") < everything


@pytest.fixture
def held(container: Path) -> Iterator[tuple[Any, threading.Thread, threading.Event, list[Tensor]]]:
    """A model whose forward stands still in its first layer until the event is set."""
    model = load(container, level=2)
    within, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        within.set()
        assert go_on.wait(20)

    hook = model.model.layers[0].register_forward_hook(wait)
    outputs: list[Tensor] = []
    thread = threading.Thread(target=lambda: outputs.append(logits(model)))
    thread.start()
    assert within.wait(20)
    hook.remove()
    yield model, thread, go_on, outputs
    go_on.set()
    thread.join(20)


def test_a_resize_waits_for_the_forward_that_runs(held: Any, container: Path) -> None:
    model, forward, go_on, outputs = held
    resizing = threading.Thread(target=resize, args=(model,))
    resizing.start()
    resizing.join(0.3)
    assert resizing.is_alive()
    assert model.bitstack.levels == [2] * len(model.bitstack.stacks)
    later: list[Tensor] = []
    next_one = threading.Thread(target=lambda: later.append(logits(model)))
    next_one.start()
    next_one.join(0.2)
    assert next_one.is_alive()  # begun after the resize, so it comes after it
    go_on.set()
    for thread in (forward, resizing, next_one):
        thread.join(20)
        assert not thread.is_alive()
    assert torch.equal(outputs[0], logits(load(container, level=2)))
    assert torch.equal(later[0], logits(load(container)))


def test_forwards_of_two_threads_run_at_once(held: Any) -> None:
    model, forward, *_ = held
    assert torch.isfinite(logits(model)).all()
    assert forward.is_alive()


def test_resizes_from_many_threads_during_generation(container: Path) -> None:
    manifest = read_manifest(container)
    model = load(container)
    rng = random.Random(0)
    low, high = manifest.budgets.floor_bytes, manifest.budgets.total_bytes
    budgets = [low, high, *[rng.randint(low, high) for _ in range(3)]]
    expected = {budget: logits(load(container, budget)) for budget in budgets}
    failures: list[BaseException] = []
    over = threading.Event()

    def repeat(action: Callable[[random.Random], object], seed: int) -> None:
        rng = random.Random(seed)
        try:
            while not over.is_set():
                action(rng)
        except BaseException as error:
            failures.append(error)

    def generate(_: random.Random) -> None:
        model.generate(IDS[:, :8], max_new_tokens=20, do_sample=False)

    def change(rng: random.Random) -> None:
        resize(model, rng.choice(list(expected)))

    threads = [
        threading.Thread(target=repeat, args=(action, seed))
        for seed, action in enumerate([generate, generate, change, change])
    ]
    for thread in threads:
        thread.start()
    over.wait(3)
    over.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    for budget, right in expected.items():
        resize(model, budget)
        assert torch.equal(logits(model), right)
