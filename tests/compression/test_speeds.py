"""Seconds are work by speeds, kind by kind; the speeds are measured."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack.compression.speeds import Speeds, measure_speed, predict_seconds
from bitstack.compression.work import Work, calibration_work, decompose_operations, tuning_work
from bitstack.original.matrices import find_matrices
from bitstack.original.model_limits import positions
from bitstack.original.source import open_source
from bitstack.recipe import load_recipe

Folder = Callable[..., Path]
SPEEDS = Speeds(1e6, 1e9, 1e8, 1e7)


def test_every_kind_has_its_speed() -> None:
    assert Speeds._fields == Work._fields
    assert SPEEDS.seconds(Work(2e6, 3e9, 4e8, 5e7)) == pytest.approx(2 + 3 + 4 + 5)


def test_seconds_without_text_are_those_of_decomposing(pico_model: Folder) -> None:
    source, recipe = open_source(pico_model("llama-tied")), load_recipe()
    matrices = find_matrices(source.model)
    calibrate, seconds, finish = predict_seconds(source, matrices, recipe, 0, 0, SPEEDS)
    assert (calibrate, finish) == (0, 0)
    work = sum(decompose_operations(m, recipe, text=False) for m in matrices)
    assert seconds == pytest.approx(work / 1e6)


def test_seconds_with_text(pico_model: Folder) -> None:
    source, recipe = open_source(pico_model("llama-tied")), load_recipe(order="predicted")
    matrices = find_matrices(source.model)
    found = predict_seconds(source, matrices, recipe, 4096, 2048, SPEEDS)
    length = positions(source.model)
    assert length is not None
    assert length < recipe.seq_len
    assert found[0] == SPEEDS.seconds(calibration_work(source, matrices, 4096, 2048, length))
    assert found[2] == SPEEDS.seconds(tuning_work(source, recipe))
    assert min(found) > 0


def test_speeds_are_measured() -> None:
    speeds = measure_speed(load_recipe("fast"), "cpu", text=True)
    assert min(speeds) > 1e6
