"""Forecasts what a run will take, beside what is free, as `run --dry-run` shows it.

Does not predict time and memory; see `compression.speeds` and `compression.peak_memory`.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from bitstack.compression.clock import describe, fit, predict
from bitstack.compression.inputs import open_inputs, tell_remarks
from bitstack.compression.speeds import measure_speed, predict_seconds
from bitstack.machine.free_memory import memory_room
from bitstack.machine.new_folder import existing_folder
from bitstack.original.hub_cache import locate
from bitstack.recipe import Recipe


@dataclass(frozen=True)
class Forecast:
    """Sizes in bytes; seconds of one worker with the threads it has now.

    Outliers are not counted: how many there are is known when they are found (6 bytes each, at most
    for every hundredth weight).
    """

    model: str
    plan: str  # what is done in the time that was given; empty if none was
    matrices: int
    weights: int
    original_bytes: int
    container_bytes: int
    calibrate_seconds: float
    decompose_seconds: float
    finish_seconds: float  # order and tuning: one worker does them alone
    memory_bytes: int  # resident at the peak, of each worker
    free_memory_bytes: int | None  # None where the system does not say
    disk_bytes: int  # at the peak
    free_disk_bytes: int

    @property
    def seconds(self) -> float:
        return self.calibrate_seconds + self.decompose_seconds + self.finish_seconds


def forecast(
    model: str | Path,
    output: str | Path,
    recipe: Recipe,
    *,
    gguf_file: str | None = None,
    seconds: float | None = None,
) -> Forecast:
    """Predicts a run without writing anything.

    Args:
        gguf_file: Name of the GGUF to read, where `model` is a folder or a name on the Hub.
        seconds: Time that the recipe is fitted to, if any.

    Raises:
        UserError: for everything that would stop the run at its start.
    """
    place = locate(model, gguf_file=gguf_file) if gguf_file else model
    inputs = open_inputs(place, output, recipe)
    tell_remarks(inputs.source)
    speeds = measure_speed(recipe, inputs.device, text=inputs.text is not None)
    plan = ""
    if seconds is not None:
        recipe = fit(recipe, seconds, lambda one: predict(inputs, one, speeds))
        plan = describe(recipe)
        inputs = open_inputs(place, output, recipe)
    calibrate, decompose, finish = predict_seconds(
        inputs.source, inputs.matrices, recipe, inputs.tokens, inputs.batch_tokens, speeds
    )
    return Forecast(
        model=str(model),
        plan=plan,
        matrices=len(inputs.matrices),
        weights=sum(m.weights for m in inputs.matrices),
        original_bytes=inputs.source.bytes,
        container_bytes=inputs.stored_bytes,
        calibrate_seconds=calibrate,
        decompose_seconds=decompose,
        finish_seconds=finish,
        memory_bytes=inputs.memory_bytes,
        free_memory_bytes=memory_room(),
        disk_bytes=inputs.disk_bytes,
        free_disk_bytes=shutil.disk_usage(existing_folder(inputs.folder)).free,
    )
