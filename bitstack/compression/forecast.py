"""What a run will take, as `run --dry-run` shows it: `predict` beside what is free."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from bitstack.compression.costs import predict
from bitstack.compression.inputs import check
from bitstack.machine.free_memory import memory_room
from bitstack.recipe import Recipe


@dataclass(frozen=True)
class Forecast:
    """Sizes in bytes; seconds of one worker with the threads it has now."""

    model: str
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


def forecast(model: str | Path, output: str | Path, recipe: Recipe) -> Forecast:
    """Predict a run without writing anything. UserError for all that would stop it at its start."""
    checked = check(model, output, recipe)
    calibrate, decompose, finish = predict(
        checked.source, checked.matrices, recipe, checked.tokens, checked.batch_tokens,
        checked.device,
    )  # fmt: skip
    return Forecast(
        model=str(model),
        matrices=len(checked.matrices),
        weights=sum(m.weights for m in checked.matrices),
        original_bytes=checked.source.bytes,
        container_bytes=checked.stored_bytes,
        calibrate_seconds=calibrate,
        decompose_seconds=decompose,
        finish_seconds=finish,
        memory_bytes=checked.memory_bytes,
        free_memory_bytes=memory_room(),
        disk_bytes=checked.disk_bytes,
        free_disk_bytes=shutil.disk_usage(_existing(Path(output))).free,
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
