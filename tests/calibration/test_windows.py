"""Which windows of a text a run calibrates, tunes and measures its order with."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pico
from bitstack import recipes
from bitstack.calibration.windows import CalibrationText, read_text
from bitstack.errors import UserError
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


def test_the_general_text_is_the_default_and_may_be_shorter_than_wanted(
    pico_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short one stands here for the shipped text, of which all windows are taken."""
    short = tmp_path / "short.txt.gz"
    short.write_bytes(gzip.compress(pico.TEXT.encode()))
    monkeypatch.setattr(recipes, "general_text", lambda: short)
    source = open_source(pico_model("llama-tied"))
    general = read_text(source, load_recipe(num_samples=128, seq_len=16))
    assert general is not None
    whole = len(pico.tokenizer()(pico.TEXT)["input_ids"]) // 16
    assert general.windows.shape == (whole, 16)
    assert len(general.tuning_windows) == whole - whole // 8  # the rest is for the order
    assert rows(general.tuning_windows) <= rows(general.windows)
    named = read(pico_model("llama-tied"), short, num_samples=128, seq_len=16)
    assert torch.equal(named.windows, general.windows)
    assert read_text(source, load_recipe(calibration="none")) is None


@pytest.mark.parametrize("family", ["llama-tied", "qwen2"])
@pytest.mark.parametrize("calibration", [None, "named"])
def test_without_tokenizer_the_way_out_is_told(
    family: str, calibration: str | None, text_file: Path, tmp_path: Path
) -> None:
    """For Qwen2 transformers makes a tokenizer without words where the folder has none."""
    pico.build(family).save_pretrained(tmp_path / "model")
    recipe = load_recipe(calibration=calibration and str(text_file))
    with pytest.raises(UserError, match="no usable tokenizer: ") as caught:
        read_text(open_source(tmp_path / "model"), recipe)
    assert str(caught.value).endswith("add its files to the folder, or give --calibration none")
    assert "\n" not in str(caught.value)
