"""Which windows of a text a run calibrates, tunes and measures its order with."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import pico
from bitstack.calibration.windows import CalibrationText, read_text
from bitstack.original.source import open_source
from bitstack.recipe import load_recipe


def read(model: Path, text: Path, **fields: int) -> CalibrationText:
    recipe = load_recipe(calibration=str(text), **{"num_samples": 4, "seq_len": 32} | fields)
    text_windows = read_text(open_source(model), recipe)
    assert text_windows is not None
    return text_windows


def rows(windows: Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in windows.tolist()}


def test_tuning_takes_all_that_was_read_but_what_the_order_is_measured_on(
    pico_model: Callable[..., Path], text_file: Path
) -> None:
    selected = read(pico_model("llama-tied"), text_file, order_samples=2)
    every = selected.tokens.ids[: len(selected.tokens.ids) // 32 * 32].view(-1, 32)
    assert len(every) == 16  # four times the calibration's
    assert selected.windows.shape == (4, 32)
    assert not rows(selected.order_windows) & rows(selected.tuning_windows)
    assert rows(selected.order_windows) | rows(selected.tuning_windows) == rows(every)


def test_no_more_windows_than_the_steps_take(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    text = tmp_path / "long.txt"
    text.write_text(pico.TEXT * 12)
    model, fields = pico_model("llama-tied"), {"num_samples": 40, "seq_len": 16, "order_samples": 1}
    few = read(model, text, tune_steps=0, **fields)  # one step, for the finer planes
    more = read(model, text, tune_steps=1, **fields)
    assert [len(few.tuning_windows), len(more.tuning_windows)] == [2048 // 16, 4 * 40 - 1]
    assert torch.equal(few.tuning_windows, more.tuning_windows[: len(few.tuning_windows)])


def test_short_text_serves_for_everything(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("The cat sat on the mat. " * 12)
    selected = read(pico_model("llama-tied"), short, seq_len=40)
    assert 0 < len(selected.tuning_windows) < 8
    assert rows(selected.order_windows) == rows(selected.tuning_windows)
