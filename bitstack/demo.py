"""The demonstration: one model compressed once, loaded at five budgets, beside the original.

Every figure is measured here and now, the same way for all six models. Printing is left to
`tables`; what is measured, to `evaluate`, `generate` and `bitstack.metrics`.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bitstack import recipes
from bitstack.compression.pipeline import compress
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.errors import UserError
from bitstack.live.generation import generate
from bitstack.live.opening import open_model
from bitstack.machine.files import write_json
from bitstack.metrics.capacity.decode_speed import seconds_per_token
from bitstack.metrics.loss.curve import CurvePoint, plot_memory_quality
from bitstack.metrics.loss.evaluation import Evaluation, score
from bitstack.original.text import token_ids
from bitstack.recipe import with_old_names

CONTAINER, RESULTS, PLOT = "model", "demo.json", "memory-quality"
MARK = ".bitstack-demo"  # a folder with it was made by a demonstration
# The recipe's own numbers would take the demonstration past three minutes on two cores.
FEWER: dict[str, Any] = {
    "tune_steps": 50, "code_lr": 0.01, "joint_passes": 2, "num_samples": 160, "seq_len": 256,
    "order_samples": 4,
}  # fmt: skip
BUDGETS = ("2bpw", "3bpw", "4bpw")  # between the floor and everything
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
    """Everything a demonstration found, the original first."""

    rows: list[DemoRow]
    prompt: str
    floor_bytes: int
    recipe: str
    files: list[Path]


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
    """Run it and write container, results and plot into `output`.

    An earlier demonstration there is replaced; UserError for a folder that holds anything else.
    Defaults are the embedded model and its texts; `max_tokens` held-out tokens are scored in
    windows of `window`. `fields` override the default recipe.
    """
    folder = _fresh(Path(output))
    model, text = model or recipes.demo_model(), str(held_out or recipes.held_out_text())
    source = str(calibration or recipes.calibration_text())
    chosen = FEWER | {"calibration": source} | fields
    container = compress(model, folder / CONTAINER, progress=progress, **chosen)
    manifest = read_manifest(container)
    rows = []
    named = list(_models(model, container, manifest))
    for name, path, budget in tqdm(named, desc="measure", disable=None if progress else True):
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
    """(name, folder, budget) of all that is compared; budgets below the floor are left out."""
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


def _fresh(folder: Path) -> Path:
    """The folder, empty but for the mark; only what a demonstration wrote is removed."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise UserError(f"--output {folder}: holds other files; name a new or empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
        shutil.rmtree(folder / CONTAINER, ignore_errors=True)
        for name in (RESULTS, f"{PLOT}.png", f"{PLOT}.svg"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot write ({error.strerror})") from None
    return folder
