"""A type for each tensor at a size in bytes, against all mixes; llama.cpp's where it is there."""

import importlib
import itertools
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def mixing() -> Any:
    return importlib.import_module("peers.mixing")


def choices(mixing: Any, *pairs: tuple[int, float]) -> list[Any]:
    return [mixing.Choice(f"type {size}", size, error) for size, error in pairs]


def test_the_hull_leaves_out_what_never_pays(mixing: Any) -> None:
    given = choices(mixing, (4, 1.0), (2, 9.0), (3, 8.9), (2, 10.0), (8, 0.5), (6, 2.0))
    assert [c.size for c in mixing.hull(given)] == [2, 4, 8]


def test_a_mix_is_the_best_at_its_size(mixing: Any) -> None:
    """At the sizes where a step just fits, no other mix of as few bytes has less error."""
    tensors = {
        "a": choices(mixing, (10, 8.0), (20, 2.0), (40, 0.5)),
        "b": choices(mixing, (1, 3.0), (2, 1.0), (4, 0.4)),
        "c": choices(mixing, (5, 30.0), (10, 6.0), (20, 5.0)),
    }
    mixes = list(itertools.product(*tensors.values()))
    for most in (16, 17, 22, 32, 34):
        found = mixing.chosen(tensors, most)
        size, error = sum(c.size for c in found.values()), sum(c.error for c in found.values())
        allowed = [m for m in mixes if sum(c.size for c in m) <= size]
        assert size <= most
        assert error == min(sum(c.error for c in m) for m in allowed)
    assert mixing.chosen(tensors, 15) is None
    assert {c.size for c in mixing.chosen(tensors, 10**6).values()} == {40, 4, 20}


def test_types_of_llama_cpp() -> None:
    """Blocks of 32 divide 64 columns, those of 256 do not; more bytes, less error."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    module = importlib.import_module("peers.llama_cpp_mix")
    weight = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    found = module.compared(weight, np.ones(64, np.float32))
    names = [choice.kind.name for choice in found]
    assert names == ["IQ4_NL", "Q4_0", "Q5_0", "Q8_0"]
    assert [choice.size for choice in found] == [300 * 2 * b for b in (18, 18, 22, 34)]
    assert found[-1].error < found[2].error < found[0].error < 0.02
    assert len(module.compared(np.tile(weight, 4), np.ones(256, np.float32))) == len(module.TYPES)
