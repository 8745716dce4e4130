"""The fuzzer of the kernels: a few of its cases end well, and what is wrong is told."""

import importlib
import os
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def fuzz() -> Any:
    return importlib.import_module("fuzz_ops")


@pytest.mark.parametrize("kernel", ["", "reference"])
@pytest.mark.parametrize(
    "case",
    [
        ("coded_linear", "planes: nine"), ("coded_linear", "bias: without memory"),
        ("native.linear", "kept: one negative"), ("coded_rows", "ids: outside"),
        ("dequantize", "rows: negative"), ("codes.descend", "levels: falling"),
    ],
)  # fmt: skip
def test_a_wrong_call_raises(
    fuzz: Any, case: tuple[str, str], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fuzz.native.compiled() is None and case[0] in ("native.linear", "codes.descend"):
        pytest.skip("the compiled kernels were not built")
    monkeypatch.setenv("BITSTACK_KERNEL", kernel)
    if kernel == "reference" and case[1] == "bias: without memory":
        pytest.skip("torch's own product ends the process")
    way, text = fuzz.in_child(*case, 0)
    assert way == "raise", text


def test_what_is_wrong_is_told(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(result: Any) -> None:
        entry = ("ids", lambda a: result(), lambda a: torch.ones(3))
        monkeypatch.setitem(fuzz.TARGETS, "one", entry)

    call(lambda: torch.ones(3))
    assert fuzz.in_child("one", "ids: outside", 0)[0] == "right"
    call(lambda: torch.zeros(3))
    assert fuzz.in_child("one", "ids: outside", 0)[0] == "wrong"
    call(lambda: os.abort())
    assert fuzz.in_child("one", "ids: outside", 0)[0] == "crash"


def test_kinds_are_many(fuzz: Any) -> None:
    assert len(fuzz.WRONG) > 61
    assert {argument for argument, _ in fuzz.WRONG.values()} <= {
        name for names, _, _ in fuzz.TARGETS.values() for name in names.split()
    }
