"""The predicted peak grows with what a run holds; `scripts/bench_forecast.py` measures it."""

from collections.abc import Callable
from pathlib import Path

from bitstack.compression.peak_memory import peak_memory
from bitstack.original.matrices import find_matrices
from bitstack.original.source import open_source
from bitstack.recipe import Recipe, load_recipe

Folder = Callable[..., Path]


def test_memory_of_text_and_of_tuning(pico_model: Folder) -> None:
    source = open_source(pico_model("llama-untied"))
    matrices = find_matrices(source.model)
    untuned, tuned = load_recipe(tune_steps=0), load_recipe(tune_steps=10)

    def peak(recipe: Recipe, batch: int) -> int:
        return peak_memory(source, matrices, recipe, batch)

    assert peak(tuned, 0) == peak(untuned, 0)  # without text nothing is tuned
    assert 600 << 20 < peak(untuned, 0) < peak(untuned, 2048) <= peak(tuned, 2048)
    assert peak(untuned, 2048) < peak(untuned, 1 << 20)
