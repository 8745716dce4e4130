"""A run without text tells where rounding would have lost less."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack import compress
from bitstack.compression import matrix_pool
from bitstack.compression.against_rounding import levels_behind_rounding
from bitstack.container.entries import StackEntry


def entry(name: str, errors: list[float], rows: int = 512) -> StackEntry:
    return StackEntry(
        name=name, parameter=name, module=name, kind="linear", rows=rows, columns=512,
        format="codes", levels=len(errors), errors=errors,
    )  # fmt: skip


ROUNDED = [0.9, 0.2, 0.04, 0.009]


def test_bytes_count() -> None:
    """Rounding takes a quarter of a bit more, which is worth a factor of 1.4."""
    near = [0.36, 0.2 * 1.3, 0.04 * 1.3, 0.009 * 1.5]
    assert levels_behind_rounding([entry("a", near)], {"a": ROUNDED}) == [4]


def test_matrices_count_by_their_weights() -> None:
    bad, good = [error * 8 for error in ROUNDED], [error / 2 for error in ROUNDED]
    stacks = [entry("a", bad, rows=64), entry("b", good, rows=4096)]
    assert levels_behind_rounding(stacks, {"a": ROUNDED, "b": ROUNDED}) == []
    assert levels_behind_rounding(stacks[:1], {"a": ROUNDED}) == [2, 3, 4]


def test_exact_matrices_are_not_behind() -> None:
    assert levels_behind_rounding([entry("a", [0.0] * 4)], {"a": [0.0] * 4}) == []


def test_a_run_warns(
    pico_model: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matrix_pool, "rounding_error", lambda weight, bits: 1e-9)
    with caplog.at_level(logging.WARNING, "bitstack"):
        model = pico_model("llama-tied")
        compress(model, tmp_path / "out", recipe="fast", calibration="none", blocks=3)
    assert "at level 2, 3 the weights are further" in caplog.text


def test_a_run_with_text_does_not_compare(
    pico_model: Callable[..., Path],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(matrix_pool, "rounding_error")
    compress(
        pico_model("llama-tied"), tmp_path / "out", recipe="fast", calibration=str(text_file),
        num_samples=1, seq_len=16, order_samples=1, blocks=2,
    )  # fmt: skip
