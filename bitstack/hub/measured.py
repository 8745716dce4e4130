"""What a model card says of every budget: exact bytes, and on a text also the quality, measured.

Measurements are kept in the container's folder as they are made, so that a push that breaks does
not repeat them. How they are shown is left to `card`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bitstack.container.budget import Budget, parse_budget
from bitstack.container.manifest import MANIFEST, Manifest
from bitstack.container.planning import PlanRow, plan
from bitstack.container.shards import ShardReader
from bitstack.live.opening import open_model
from bitstack.machine.files import write_json
from bitstack.metrics.loss.evaluation import Evaluation, score
from bitstack.original.source import load_tokenizer
from bitstack.original.text import Tokens, token_ids

EVALUATIONS = "evaluations.json"  # beside the manifest
BITS = (2, 3, 4, 6)  # per weight: budgets between the floor and everything, where none are named
ORIGINAL = "original"


@dataclass(frozen=True)
class Text:
    """What to measure on, and how."""

    source: str
    original: str | None = None  # model measured beside the budgets: folder, or name on the Hub
    max_tokens: int | None = None
    window: int | None = None  # tokens
    device: str = "auto"


@dataclass(frozen=True)
class Row:
    """One budget of the card."""

    planned: PlanRow
    download_bytes: int  # of the shards that hold it
    scored: Evaluation | None  # None: not measured
    recovery: float | None  # bits per byte of the original over those of this budget


def default_budgets(manifest: Manifest) -> list[Budget]:
    """The floor, a few widths between, and everything."""
    budgets = manifest.budgets
    low, high = budgets.floor_bytes, budgets.total_bytes
    ends = [Budget(Fraction(size), "bytes", name) for size, name in ((low, "floor"), (high, "all"))]
    between = [parse_budget(f"{bits}bpw") for bits in BITS]
    sizes = {"fixed_bytes": manifest.fixed_bytes, "weights": manifest.weights}
    asked = [b for b in between if low < b.to_bytes(original_bytes=0, **sizes) < high]
    return [ends[0], *asked, ends[1]]


def budget_rows(
    folder: Path,
    manifest: Manifest,
    budgets: Sequence[str | int | Budget],
    text: Text | None,
    *,
    progress: bool = False,
) -> tuple[list[Row], Evaluation | None]:
    """One row a budget, and the original's measurement where one was asked for.

    Without a text nothing is measured. UserError for everything that `plan`, `open_model` and
    `score` refuse.
    """
    planned = plan(folder, budgets or default_budgets(manifest))
    scores = _scores(folder, planned, text, progress) if text else {}
    original = scores.get(ORIGINAL)
    rows = []
    for row in planned:
        scored = scores.get(str(row.resident_bytes))
        recovery = None
        if scored and original:
            recovery = original.bits_per_byte / scored.bits_per_byte
        rows.append(Row(row, _download_bytes(folder, manifest, row), scored, recovery))
    return rows, original


def _download_bytes(folder: Path, manifest: Manifest, row: PlanRow) -> int:
    names = manifest.tensors(manifest.budgets.levels(row.resident_bytes)[0])
    return sum(shard.bytes for shard in ShardReader(folder).holding(names, manifest.shards))


def _scores(
    folder: Path, planned: list[PlanRow], text: Text, progress: bool
) -> dict[str, Evaluation]:
    """By resident bytes, or `original`; measured once, and kept."""
    tokens = token_ids(text.source, load_tokenizer(folder), max_tokens=text.max_tokens)
    asked = {
        "container": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
        "text": tokens.sha256,
        "max_tokens": text.max_tokens,
        "window": text.window,
        "original": text.original,
    }
    known = _kept(folder, asked)
    wanted = [ORIGINAL] if text.original else []
    wanted += [str(row.resident_bytes) for row in planned]
    missing = [key for key in dict.fromkeys(wanted) if key not in known]
    for key in tqdm(missing, desc="measure", disable=None if progress else True):
        known[key] = _score(folder, key, text, tokens)
        kept = {name: scored.to_json() for name, scored in known.items()}
        write_json(folder / EVALUATIONS, {"asked": asked, "measured": kept})
    return known


def _score(folder: Path, key: str, text: Text, tokens: Tokens) -> Evaluation:
    if key == ORIGINAL:
        path, budget = str(text.original), None
    else:
        path, budget = str(folder), int(key)
    opened = open_model(path, budget=budget, device=text.device)
    source = Path(text.source)
    named = source.name if source.exists() else text.source  # no path of this machine
    model = Path(path).resolve().name if Path(path).exists() else path
    return score(opened, tokens, model=model, text=named, window=text.window)


def _kept(folder: Path, asked: dict[str, Any]) -> dict[str, Evaluation]:
    """Earlier measurements of the same container, text and windows."""
    try:
        data = json.loads((folder / EVALUATIONS).read_text())
        if data["asked"] != asked:
            return {}
        return {key: Evaluation(**fields) for key, fields in data["measured"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
