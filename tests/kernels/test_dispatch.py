"""Which kernel runs and why, the forcing variable, accuracies, and the pool of threads.

Also covers `kernels.selection`.
"""

import os
import threading
from collections.abc import Iterator

import pytest
import torch

from bitstack import kernels
from bitstack.errors import UserError
from bitstack.kernels import dispatch, native, selection

from .conftest import Coded, make_coded


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    selection._for_cpu.cache_clear()
    yield
    selection._for_cpu.cache_clear()


def test_the_best_able_variant_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITSTACK_KERNEL", raising=False)
    able = [variant for variant in selection.variants() if variant.runs]
    choice = kernels.which()
    assert choice.name == (able[0].name if able else "reference")
    assert choice.reason


def test_without_a_compiled_library_it_says_slow(
    monkeypatch: pytest.MonkeyPatch, fresh_choice: None
) -> None:
    monkeypatch.delenv("BITSTACK_KERNEL", raising=False)
    monkeypatch.setattr(selection, "variants", lambda: ())
    assert kernels.which().name == "reference"
    assert "slow" in kernels.which().reason
    assert "compiler" in kernels.which().reason
    matrix = make_coded(5, 9, 2)
    x = torch.randn(1, 9)
    out = kernels.coded_linear(x, matrix.planes, matrix.scale, 5)
    torch.testing.assert_close(out, x @ matrix.dense.T)


def test_a_processor_without_vectors_is_called_slow(
    monkeypatch: pytest.MonkeyPatch, fresh_choice: None
) -> None:
    monkeypatch.delenv("BITSTACK_KERNEL", raising=False)
    only = (
        selection.Variant(0, "avx2", False, False, False),
        selection.Variant(1, "portable", True, False, False),
    )
    monkeypatch.setattr(selection, "variants", lambda: only)
    assert kernels.which().name == "portable"
    assert "slow" in kernels.which().reason


def test_what_the_processor_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, fresh_choice: None
) -> None:
    arm = (
        selection.Variant(0, "neon-i8mm", False, True, True),
        selection.Variant(1, "neon-dotprod", True, True, False),
        selection.Variant(2, "neon", True, True, False),
        selection.Variant(3, "portable", True, False, False),
    )
    monkeypatch.delenv("BITSTACK_KERNEL", raising=False)
    monkeypatch.setattr(selection, "variants", lambda: arm)
    choice = kernels.which()
    assert choice.name == "neon-dotprod"
    assert "lacks what neon-i8mm need" in choice.reason
    monkeypatch.setenv("BITSTACK_KERNEL", "neon")
    assert kernels.which() == ("neon", "set by BITSTACK_KERNEL")
    monkeypatch.setenv("BITSTACK_KERNEL", "neon-i8mm")
    with pytest.raises(UserError, match="one of neon-dotprod, neon, portable, reference"):
        kernels.which()


def test_forced_names(kernel: str) -> None:
    assert kernels.which() == (kernel, "set by BITSTACK_KERNEL")


def test_an_unknown_name_lists_the_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSTACK_KERNEL", "sse9")
    with pytest.raises(UserError, match=r"BITSTACK_KERNEL: 'sse9'.*reference"):
        kernels.which()


def test_other_devices() -> None:
    assert kernels.which("mps").name == "reference"
    assert kernels.which("cuda").name in ("triton", "reference")


def test_accuracy_is_set_and_given_back() -> None:
    before = kernels.set_accuracy("exact")
    try:
        assert kernels.get_accuracy() == "exact"
        with pytest.raises(UserError, match="accuracy: 'best'"):
            kernels.set_accuracy("best")
    finally:
        assert kernels.set_accuracy(before) == "exact"


def _many_products(wrong: list[str]) -> None:
    matrix = make_coded(600, 700, 3)
    x = torch.randn(2, 700)
    expected = kernels.coded_linear(x, matrix.planes, matrix.scale, 600)
    for _ in range(200):
        if not torch.equal(kernels.coded_linear(x, matrix.planes, matrix.scale, 600), expected):
            wrong.append("a product changed")


def test_products_from_several_threads_at_once() -> None:
    wrong: list[str] = []
    callers = [threading.Thread(target=_many_products, args=(wrong,)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes_too() -> None:
    wrong: list[str] = []
    _many_products(wrong)
    matrix = make_coded(600, 700, 3)  # before the fork: torch's OpenMP may hang in a child
    child = os.fork()
    if child == 0:
        os._exit(0 if _in_child(matrix) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not wrong


def _in_child(matrix: Coded) -> bool:
    torch.set_num_threads(2)
    x = torch.ones(1, 700)
    variant = dispatch.cpu_variant()
    if variant is None:
        return True
    out = native.linear(variant, False, x, matrix.planes, matrix.scale, 600, None)
    return bool(torch.isfinite(out).all())
