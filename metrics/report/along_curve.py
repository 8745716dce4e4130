"""Measures three metrics along a compression curve: one container at several budgets, on one text.

At every budget, and for the original where it is given: information capacity in both variants,
capacity density, and the gap to the original. A metric that is not defined for a model or a text
is None, and `undefined` says why. Does not define the metrics; see `metrics.capacity`,
`metrics.density` and `metrics.gap`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bitstack.container.budget import Budget
from bitstack.container.recognition import is_container
from bitstack.errors import UserError
from bitstack.live.opening import Opened, open_model
from bitstack.metrics.capacity.information_capacity import InformationCapacity, by_bytes, faithful
from bitstack.metrics.density.capacity_density import Density
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.density.law_file import classics_law
from bitstack.metrics.density.measured import law_density
from bitstack.metrics.gap.capacity_gap import Gap, capacity_gap
from bitstack.metrics.loss.documents import read_texts, texts_sha256
from bitstack.original.hub_cache import locate

ORIGINAL = "original"
T = TypeVar("T")


@dataclass(frozen=True)
class CurvePoint:
    """One model: its size and what was measured of it."""

    budget: str  # as given, or "original"
    budget_bytes: int | None
    resident_bytes: int  # of the whole model
    bits_per_weight: float
    faithful: InformationCapacity | None  # as published
    by_bytes: InformationCapacity | None
    density: Density | None
    gap: Gap | None  # to the original
    undefined: dict[str, str]  # why a metric is None, by its field's name


@dataclass(frozen=True)
class MetricsCurve:
    """The measurements of the original, where it is given, and of every budget, on one text."""

    model: str  # the container, as given
    original: str | None
    text: str  # the source, as given
    text_sha256: str
    documents: int
    text_bytes: int
    law: str | None  # the text that the density law was fitted on, if known
    denominator: str  # of `by_bytes`
    seed: int  # of the random draws behind the intervals
    points: list[CurvePoint]  # the original first, then the budgets in the order given

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for `write_json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Settings:
    """What all points of a curve share."""

    texts: list[str]
    law: DensityLaw
    denominator: str
    seed: int
    progress: bool


def metrics_along_curve(
    folder: str | Path,
    text: str,
    budgets: Sequence[str | int | Budget],
    *,
    original: str | Path | None = None,
    law: DensityLaw | None = None,
    denominator: str = "bytes",
    max_bytes: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> MetricsCurve:
    """Measures the container `folder` at `budgets` on the text source `text`.

    Args:
        original: Folder of the model it was made from; it gives the gap and a point of its own.
        law: Density law; None takes the shipped one. A model with another tokenizer than the law's
            series has no density.
        denominator: Cost in information capacity by bytes: "bytes" moved, which compression
            lowers, or "flops".
        max_bytes: Of the text; None reads all.
        seed: Of the random draws behind the intervals.

    Raises:
        UserError: the folder is no container, or a model, a budget or the text cannot be used.
    """
    if not is_container(locate(folder).folder):
        raise UserError(
            f"{folder}: not a container; a curve needs one made by `compress-model run`"
        )
    law = classics_law() if law is None else law
    settings = _Settings(read_texts(text, max_bytes=max_bytes), law, denominator, seed, progress)
    teacher = None if original is None else open_model(original, device=device)
    points = [] if teacher is None else [_point(ORIGINAL, teacher, teacher, settings)]
    for budget in budgets:
        opened = open_model(folder, budget=budget, device=device)
        name = budget.text if isinstance(budget, Budget) else str(budget)
        points.append(_point(name, opened, teacher, settings))
    return MetricsCurve(
        model=str(folder),
        original=None if original is None else str(original),
        text=text,
        text_sha256=texts_sha256(settings.texts),
        documents=len(settings.texts),
        text_bytes=sum(len(one.encode()) for one in settings.texts),
        law=None if law.protocol is None else law.protocol.text,
        denominator=denominator,
        seed=seed,
        points=points,
    )


def _point(name: str, opened: Opened, teacher: Opened | None, settings: _Settings) -> CurvePoint:
    model, tokenizer, texts = opened.model, opened.tokenizer, settings.texts
    options = {"seed": settings.seed, "progress": settings.progress}
    undefined: dict[str, str] = {}

    def attempt(metric: str, measure: Callable[[], T]) -> T | None:
        try:
            return measure()
        except UserError as error:
            undefined[metric] = " ".join(str(error).split())
            return None

    metrics: dict[str, Any] = {
        "faithful": attempt("faithful", lambda: faithful(model, tokenizer, texts, **options)),
        "by_bytes": attempt(
            "by_bytes",
            lambda: by_bytes(model, tokenizer, texts, denominator=settings.denominator, **options),
        ),
        "density": attempt("density", lambda: _density(opened, settings)),
        "gap": attempt("gap", lambda: _gap(opened, teacher, settings)),
    }
    return CurvePoint(
        budget=name,
        budget_bytes=opened.budget_bytes,
        resident_bytes=opened.resident_bytes,
        bits_per_weight=opened.bits_per_weight,
        undefined=undefined,
        **metrics,
    )


def _density(opened: Opened, settings: _Settings) -> Density:
    density = law_density(
        opened, settings.law, settings.texts, seed=settings.seed, progress=settings.progress
    )
    if density.reason is not None:
        raise UserError(density.reason)
    return density


def _gap(opened: Opened, teacher: Opened | None, settings: _Settings) -> Gap:
    if teacher is None:
        raise UserError("no original to compare with; name the model folder it was made from")
    if opened is teacher:
        raise UserError("the original itself")
    return capacity_gap(
        teacher.model,
        opened.model,
        teacher.tokenizer,
        settings.texts,
        student_tokenizer=opened.tokenizer,
        seed=settings.seed,
        progress=settings.progress,
    ).whole
