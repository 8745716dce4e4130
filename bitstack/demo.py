"""Runs the demonstration: compresses one model, and measures it at five budgets and as it was.

All six are measured in the same way on this machine. Does not print, see `commands.tables`, and
does not define what is measured, see `metrics` and `live.generation`.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitstack import recipes
from bitstack.compression.pipeline import compress
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.errors import UserError
from bitstack.live.generation import generate
from bitstack.live.opening import open_model
from bitstack.machine.extras import require
from bitstack.machine.files import write_json
from bitstack.machine.new_folder import check_new_folder
from bitstack.machine.progress import bar
from bitstack.metrics.capacity.decode_speed import seconds_per_token
from bitstack.metrics.loss.curve import CurvePoint, plot_memory_quality
from bitstack.metrics.loss.evaluation import Evaluation, score
from bitstack.original.text import token_ids
from bitstack.recipe import with_old_names

CONTAINER, RESULTS, PLOT = "model", "demo.json", "memory-quality"
MARK = ".bitstack-demo"  # a file that marks the output folder of a demonstration
# With the recipe's own numbers the demonstration would take over three minutes on two cores.
FEWER: dict[str, Any] = {
    "tune_steps": 50, "code_lr": 0.01, "joint_passes": 2, "num_samples": 160, "seq_len": 256,
    "order_samples": 4,
}  # fmt: skip
BUDGETS = ("2bpw", "3bpw", "4bpw")  # between the smallest and the whole model
PROMPT = "The old man looked at the sea and"
NEW_TOKENS = 16
SPEED_TOKENS = 32  # single-token steps whose median is the speed


@dataclass(frozen=True)
class DemoRow:
    """One model of the table."""

    name: str  # original, floor, a budget, everything
    scored: Evaluation
    tokens_per_second: float
    continuation: str


@dataclass(frozen=True)
class Demo:
    """The results of a demonstration."""

    rows: list[DemoRow]  # the original first, then from the smallest to the whole model
    prompt: str
    floor_bytes: int  # of the smallest model
    recipe: str  # in words
    files: list[Path]  # the plots


def run_demo(
    output: str | Path,
    *,
    model: Path | None = None,
    calibration: Path | None = None,
    held_out: Path | None = None,
    max_tokens: int = 20_000,
    window: int = 256,
    progress: bool = False,
    **fields: Any,
) -> Demo:
    """Runs the demonstration and writes container, results and plot.

    Args:
        output: Folder to write to: a new or empty one, or that of an earlier demonstration, which
            is replaced.
        model: Model folder; None for the embedded model.
        calibration: Text to compress with; None for the embedded one.
        held_out: Text to measure on; None for the embedded one.
        max_tokens: Tokens of `held_out` that are scored.
        window: Tokens of a forward pass, and of a stride.
        progress: Show progress bars.
        fields: Fields of the default recipe to change.

    Raises:
        UserError: `output` holds anything else, or the model or a text cannot be used.
    """
    require("matplotlib")  # fails here, before anything is compressed or removed
    folder = _emptied(Path(output))
    model, text = model or recipes.demo_model(), str(held_out or recipes.held_out_text())
    source = str(calibration or recipes.calibration_text())
    chosen = FEWER | {"calibration": source} | fields
    container = compress(model, folder / CONTAINER, progress=progress, **chosen)
    manifest = read_manifest(container)
    rows = []
    models = list(_models(model, container, manifest))
    for name, path, budget in bar(models, desc="measure", show=progress):
        rows.append(_measure(name, path, budget, text, max_tokens, window))
    demo = Demo(rows, PROMPT, manifest.budgets.floor_bytes, _recipe(manifest), _plot(rows, folder))
    results = [asdict(row) for row in rows]
    write_json(
        folder / RESULTS,
        {"prompt": PROMPT, "recipe": with_old_names(manifest.recipe), "rows": results},
    )
    return demo


def _recipe(manifest: Manifest) -> str:
    recipe = manifest.recipe
    return (
        f"{recipe['name']} with {recipe['num_samples']} calibration windows and "
        f"{recipe['tune_steps']} steps of tuning"
    )


def _models(
    model: Path, container: Path, manifest: Manifest
) -> Iterator[tuple[str, Path, int | str | None]]:
    """Yields name, folder and budget of every model; skips budgets below the smallest model."""
    budgets = manifest.budgets
    floor = budgets.bits_per_weight([1] * len(manifest.stacks))
    yield "original", model, None
    yield "floor", container, budgets.floor_bytes
    for budget in BUDGETS:
        if float(budget.removesuffix("bpw")) > floor:
            yield budget, container, budget
    yield "everything", container, budgets.total_bytes


def _measure(
    name: str, path: Path, budget: int | str | None, text: str, max_tokens: int, window: int
) -> DemoRow:
    opened = open_model(path, budget=budget, device="auto")
    tokens = token_ids(text, opened.tokenizer, max_tokens=max_tokens)
    return DemoRow(
        name=name,
        scored=score(opened, tokens, model=path.name, text=Path(text).name, window=window),
        tokens_per_second=1 / seconds_per_token(opened.model, tokens=SPEED_TOKENS),
        continuation=generate(opened, PROMPT, max_new_tokens=NEW_TOKENS),
    )


def _plot(rows: list[DemoRow], folder: Path) -> list[Path]:
    def point(row: DemoRow, label: str) -> CurvePoint:
        return CurvePoint(row.scored.resident_bytes, row.scored.bits_per_byte, label)

    original, *packed = rows
    scored = original.scored
    return plot_memory_quality(
        {
            f"compressed once, loaded at {len(packed)} budgets": [
                point(row, row.name) for row in packed
            ]
        },
        point(original, f"original, {scored.bits_per_weight:.0f} bits"),
        folder,
        title="One folder, any memory budget",
        caption=f"{scored.tokens} tokens of {scored.text}, window {scored.window}, "
        f"stride {scored.stride}",
        name=PLOT,
    )


def _emptied(folder: Path) -> Path:
    """Makes the folder and its mark; removes what an earlier demonstration wrote, nothing else."""
    check_new_folder(folder, marks=[MARK])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
        shutil.rmtree(folder / CONTAINER, ignore_errors=True)
        for name in (RESULTS, f"{PLOT}.png", f"{PLOT}.svg"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot write ({error.strerror})") from None
    return folder
