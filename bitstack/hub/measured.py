"""Measures the budgets of a model card: exact bytes, and the quality on a text.

Keeps every measurement in the container's folder, so that a push that breaks does not repeat it.
Does not lay out the card, see `hub.card`, and does not define the losses, see `metrics.loss`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from bitstack.container.budget import EVERYTHING, FLOOR, Budget, parse_budget
from bitstack.container.manifest import MANIFEST, Manifest
from bitstack.container.planning import PlanRow, plan
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.machine.files import write_json
from bitstack.machine.json_file import read_json
from bitstack.machine.plain_files import plain_file
from bitstack.machine.progress import bar
from bitstack.metrics.loss.evaluation import Evaluation, score
from bitstack.original.source import load_tokenizer
from bitstack.original.text import Tokens, token_ids

EVALUATIONS = "evaluations.json"  # beside the manifest
_MOST_BYTES = 16 << 20  # of it
BITS = (2, 3, 4, 6)  # bits per weight of the default budgets between smallest and whole model
ORIGINAL = "original"  # key of the original model among measurements by resident bytes


@dataclass(frozen=True)
class Text:
    """The text to measure on, and the settings of the measurement."""

    source: str  # a text file, a folder of them, FILE.jsonl or hf:DATASET[:CONFIG][:COLUMN]
    original: str | None = None  # model to compare with: folder, or name on the Hub
    max_tokens: int | None = None  # only the first tokens; None: all
    window: int | None = None  # tokens; None: the model's positions, at most 2048
    device: str = "auto"  # auto, cpu or cuda


@dataclass(frozen=True)
class Row:
    """One budget of the card."""

    planned: PlanRow
    download_bytes: int  # of the shards that hold its blocks
    scored: Evaluation | None  # None: not measured
    recovery: float | None  # bits per byte of the original over those of this budget
    tasks: Sequence[dict[str, Any]] = ()  # scores on benchmark tasks, as a report's JSON has them


def default_budgets(manifest: Manifest) -> list[Budget]:
    """Returns the smallest model, a few sizes between, and the whole model."""
    budgets = manifest.budgets
    low, high = budgets.floor_bytes, budgets.total_bytes
    ends = [
        Budget(Fraction(size), "bytes", name) for size, name in ((low, FLOOR), (high, EVERYTHING))
    ]
    between = [parse_budget(f"{bits}bpw") for bits in BITS]
    sizes = {"fixed_bytes": manifest.fixed_bytes, "weights": manifest.weights}
    inner = [b for b in between if low < b.to_bytes(original_bytes=0, **sizes) < high]
    return [ends[0], *inner, ends[1]]


def budget_rows(
    folder: Path,
    manifest: Manifest,
    budgets: Sequence[str | int | Budget],
    text: Text | None,
    *,
    progress: bool = False,
) -> tuple[list[Row], Evaluation | None]:
    """Returns one row per budget, and the evaluation of the original model.

    Args:
        folder: The container.
        manifest: Its manifest.
        budgets: As in `bitstack.load`; none for `default_budgets`.
        text: What to measure on; None measures nothing.
        progress: Show a progress bar.

    Returns:
        The rows, and None where `text` names no original model.

    Raises:
        UserError: A budget is not understood or below the smallest model, or a model or the text
            cannot be read.
    """
    planned = plan(folder, budgets or default_budgets(manifest))
    scores = _scores(folder, planned, text, progress) if text else {}
    original = scores.get(ORIGINAL)
    rows = []
    for row in planned:
        scored = scores.get(str(row.resident_bytes))
        size = download_bytes(folder, manifest, row)
        rows.append(Row(row, size, scored, recovery_of(scored, original)))
    return rows, original


def recovery_of(scored: Evaluation | None, original: Evaluation | None) -> float | None:
    """Returns the original's bits per byte over those of a budget; None where one is missing."""
    return original.bits_per_byte / scored.bits_per_byte if scored and original else None


def download_bytes(folder: Path, manifest: Manifest, row: PlanRow) -> int:
    """Returns the bytes of the files that hold the blocks of a budget."""
    names = manifest.tensors(manifest.budgets.levels(row.resident_bytes)[0])
    return sum(shard.bytes for shard in BlockReader(folder, manifest=manifest).holding(names))


def _scores(
    folder: Path, planned: list[PlanRow], text: Text, progress: bool
) -> dict[str, Evaluation]:
    """Returns evaluations by resident bytes, or ORIGINAL; measures those that no file keeps."""
    tokens = token_ids(text.source, load_tokenizer(folder), max_tokens=text.max_tokens)
    settings = {
        "container": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
        "text": tokens.sha256,
        "max_tokens": text.max_tokens,
        "window": text.window,
        "original": text.original and public_name(text.original),
    }
    scores = _kept_scores(folder, settings)
    keys = [ORIGINAL] if text.original else []
    keys += [str(row.resident_bytes) for row in planned]
    missing = [key for key in dict.fromkeys(keys) if key not in scores]
    for key in bar(missing, desc="measure", show=progress):
        scores[key] = _score(folder, key, text, tokens)
        measured = {name: scored.to_json() for name, scored in scores.items()}
        write_json(folder / EVALUATIONS, {"asked": settings, "measured": measured})
    return scores


def _score(folder: Path, key: str, text: Text, tokens: Tokens) -> Evaluation:
    if key == ORIGINAL:
        path, budget = str(text.original), None
    else:
        path, budget = str(folder), int(key)
    opened = open_model(path, budget=budget, device=text.device)
    return score(
        opened, tokens, model=public_name(path), text=public_name(text.source), window=text.window
    )


def public_name(given: str) -> str:
    """Returns the name of a file or folder without its path, and any other name as it is.

    What is pushed is public, and says nothing of the disk it comes from.
    """
    return Path(given).resolve().name if Path(given).exists() else given


def _kept_scores(folder: Path, settings: dict[str, Any]) -> dict[str, Evaluation]:
    """Returns earlier evaluations of the same container, text and settings."""
    try:
        data = read_json(plain_file(folder, EVALUATIONS), _MOST_BYTES)
        if data["asked"] != settings:
            return {}
        return {key: Evaluation(**fields) for key, fields in data["measured"].items()}
    except (UserError, KeyError, TypeError):
        return {}
