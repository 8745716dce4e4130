"""Writes the model card of a container: metadata for the Hub, and a page for people.

Does not measure, see `hub.measured`, and does not upload, see `hub.upload`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from bitstack.container.making import Making
from bitstack.container.manifest import Manifest
from bitstack.hub.measured import Row
from bitstack.hub.memories import Choice
from bitstack.machine.sizes import format_bytes
from bitstack.metrics.loss.curve import CurvePoint, plot_memory_quality
from bitstack.metrics.loss.evaluation import Evaluation

CARD, PICTURE = "README.md", "memory-quality.png"
# Marks a card that was made here. A card without it was written by somebody, and is kept.
MARK = "<!-- Made by compress-model push; without this line it would be kept as it is. -->"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_INHERITED = ("license", "license_name", "license_link", "language")  # of the base model's card


@dataclass(frozen=True)
class Subject:
    """The content of a card."""

    name: str  # owner/name of the container on the Hub
    base_model: str | None  # name on the Hub; None: not known
    base: dict[str, Any]  # metadata of the base model's own card
    manifest: Manifest
    rows: list[Row]
    original: Evaluation | None  # None: not measured
    choices: Sequence[tuple[Choice, int]] = ()  # a budget for every memory, and its download
    chat: str | None = None  # a message as the chat template writes it; None: no chat model
    making: Making | None = None  # None: not known


def render(subject: Subject, *, picture: bool) -> str:
    """Returns the text of README.md, with the picture of `draw` if `picture` is set."""
    manifest = subject.manifest
    measured = next((row.scored for row in subject.rows if row.scored), None)
    card = ModelCard.from_template(
        _metadata(subject, picture),
        template_path=str(_TEMPLATE),
        mark=MARK,
        title=subject.name.rpartition("/")[2],
        base=subject.base_model or manifest.base_model,
        subject=subject,
        rows=subject.rows,
        original=subject.original,
        measured=measured,
        choices=[choice for choice, _ in subject.choices],
        downloads=[download for _, download in subject.choices],
        context=subject.rows[0].planned.context,
        tasks=subject.rows[0].tasks,
        documents=_documents(subject.rows[0].tasks),
        making=subject.making and subject.making.words(),
        picture=PICTURE if picture else None,
        budgets=manifest.budgets,
        weights=f"{manifest.weights:,}",
        dense_bytes=manifest.fixed_bytes,
        example=_example(subject.rows),
        recipe=yaml.safe_dump(manifest.recipe, sort_keys=False, default_flow_style=None).strip(),
        calibration=manifest.text,
        versions=", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        size=format_bytes,
    )
    return card.content + "\n"


def draw(subject: Subject, folder: Path) -> Path | None:
    """Draws the curve of the measured budgets into `folder`; returns its path, None without any."""
    measured = {row.planned.resident_bytes: (row, row.scored) for row in subject.rows if row.scored}
    if not measured:
        return None
    scored = next(iter(measured.values()))[1]
    points = [
        CurvePoint(size, scored.bits_per_byte, _label(row))
        for size, (row, scored) in measured.items()
    ]
    (path,) = plot_memory_quality(
        {subject.name: _readable(points)},
        _original_point(subject.original),
        folder,
        title="One folder, any memory budget",
        caption=how_measured(scored),
        name=Path(PICTURE).stem,
        formats=["png"],
    )
    return path


def _readable(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Leaves out the label of a point beside the last one with a label: they would overlap."""
    sizes, losses = [p.resident_bytes for p in points], [p.bits_per_byte for p in points]
    across, down = (max(values) - min(values) or 1 for values in (sizes, losses))
    made: list[CurvePoint] = []
    for point in points:
        last = next((one for one in reversed(made) if one.label), None)
        near = last is not None and (
            abs(point.resident_bytes - last.resident_bytes) < 0.08 * across
            and abs(point.bits_per_byte - last.bits_per_byte) < 0.05 * down
        )
        made.append(replace(point, label="") if near else point)
    return made


def how_measured(scored: Evaluation) -> str:
    """Returns tokens, text and windows of an evaluation, in words."""
    return (
        f"{scored.tokens} tokens of {scored.text}, window {scored.window}, stride "
        f"{scored.stride}, {scored.dtype}"
    )


def _label(row: Row) -> str:
    in_bytes = row.planned.budget.isdecimal()
    return format_bytes(row.planned.resident_bytes) if in_bytes else row.planned.budget


def _original_point(scored: Evaluation | None) -> CurvePoint | None:
    if scored is None:
        return None
    label = f"original, {scored.bits_per_weight:.0f} bits"
    return CurvePoint(scored.resident_bytes, scored.bits_per_byte, label)


def _example(rows: Sequence[Row]) -> tuple[str, int]:
    """Returns the budget in the card's lines of code, and the bytes of its download."""
    row = rows[len(rows) // 2]
    budget = row.planned.budget
    return budget, row.download_bytes


def _documents(tasks: Sequence[dict[str, Any]]) -> str:
    """Returns how many documents the tasks had, in words."""
    counts = sorted({task["documents"] for task in tasks if task["documents"]})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((*counts[:1], *counts[-1:])))


def _metadata(subject: Subject, picture: bool) -> ModelCardData:
    results = [one for row in subject.rows if row.scored for one in _results(row, row.scored)]
    shown = f"https://huggingface.co/{subject.name}/resolve/main/{PICTURE}"
    return ModelCardData(
        base_model=subject.base_model,
        base_model_relation="quantized" if subject.base_model else None,
        library_name="bitstack",
        pipeline_tag="text-generation",
        tags=["bitstack", "quantized", "compression", "any-size"],
        model_name=subject.name.rpartition("/")[2] if results else None,
        eval_results=results or None,
        thumbnail=shown if picture else None,
        **{key: subject.base[key] for key in _INHERITED if subject.base.get(key)},
    )


def _results(row: Row, scored: Evaluation) -> list[EvalResult]:
    """Returns perplexity and bits per byte of one budget, with the settings they depend on."""
    text = scored.text.removeprefix("hf:").split(":")  # data set, configuration, column
    planned = row.planned
    values = {"perplexity": scored.perplexity, "bits_per_byte": scored.bits_per_byte}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=text[0],
            dataset_name=text[0],
            dataset_config=text[1] if len(text) > 1 else None,
            metric_type=metric,
            metric_name=f"{metric.replace('_', ' ')} in {format_bytes(planned.resident_bytes)}",
            metric_value=round(value, 6),
            metric_args={
                "budget": planned.budget,
                "resident_bytes": planned.resident_bytes,
                "bits_per_weight": round(planned.bits_per_weight, 4),
                "tokens": scored.tokens,
                "window": scored.window,
                "stride": scored.stride,
                "text_sha256": scored.text_sha256,
            },
        )
        for metric, value in values.items()
        if value is not None
    ]
