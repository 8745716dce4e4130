"""The three metrics along a compression curve: one container at several budgets, on one text.

At every budget, and for the original where it is at hand: information capacity in both variants,
capacity density, and the gap to the original. A metric that is not defined for a model or a text
is None, and `undefined` says why. The metrics themselves are in their own modules.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bitstack.container.budget import Budget
from bitstack.errors import UserError
from bitstack.live.opening import Opened, is_container, open_model
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
    """One model: its size and what was measured of it.

    `faithful` and `by_bytes` are the two variants of information capacity; `density` holds N̂, ρ
    and the density by bytes; `gap` is to the original. `undefined` names each that is None, with
    the reason.
    """

    budget: str  # as asked for, or "original"
    budget_bytes: int | None
    resident_bytes: int
    bits_per_weight: float
    faithful: InformationCapacity | None
    by_bytes: InformationCapacity | None
    density: Density | None
    gap: Gap | None
    undefined: dict[str, str]


@dataclass(frozen=True)
class MetricsCurve:
    """The original (where it is known) and every budget, in the order asked, and on what text."""

    model: str  # the container, as named
    original: str | None
    text: str
    text_sha256: str
    documents: int
    text_bytes: int
    law: str | None  # the text the density law was fitted on, None where no one said
    denominator: str  # of `by_bytes`
    seed: int
    points: list[CurvePoint]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `write_json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Terms:
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
    """Measure the container `folder` at `budgets` on the text source `text`.

    `original`, the model folder it was made from, gives the gap and a point of its own. `law` is a
    density law (None: the shipped one); a model with another tokenizer than its series has no
    density. `denominator` is that of the variant by bytes: "bytes" moved, in which compression
    counts, or "flops". At most `max_bytes` of the text are read. Models run on `device`; `seed`
    draws the intervals. Raises UserError for what `open_model` and `read_texts` refuse.
    """
    if not is_container(locate(folder).folder):
        raise UserError(
            f"{folder}: not a container; a curve needs one made by `compress-model run`"
        )
    law = classics_law() if law is None else law
    terms = _Terms(read_texts(text, max_bytes=max_bytes), law, denominator, seed, progress)
    teacher = None if original is None else open_model(original, device=device)
    points = [] if teacher is None else [_point(ORIGINAL, teacher, teacher, terms)]
    for budget in budgets:
        opened = open_model(folder, budget=budget, device=device)
        name = budget.text if isinstance(budget, Budget) else str(budget)
        points.append(_point(name, opened, teacher, terms))
    return MetricsCurve(
        model=str(folder),
        original=None if original is None else str(original),
        text=text,
        text_sha256=texts_sha256(terms.texts),
        documents=len(terms.texts),
        text_bytes=sum(len(one.encode()) for one in terms.texts),
        law=None if law.protocol is None else law.protocol.text,
        denominator=denominator,
        seed=seed,
        points=points,
    )


def _point(name: str, opened: Opened, teacher: Opened | None, terms: _Terms) -> CurvePoint:
    model, tokenizer, texts = opened.model, opened.tokenizer, terms.texts
    options = {"seed": terms.seed, "progress": terms.progress}
    undefined: dict[str, str] = {}

    def attempt(metric: str, measure: Callable[[], T]) -> T | None:
        try:
            return measure()
        except UserError as error:
            undefined[metric] = " ".join(str(error).split())
            return None

    found: dict[str, Any] = {
        "faithful": attempt("faithful", lambda: faithful(model, tokenizer, texts, **options)),
        "by_bytes": attempt(
            "by_bytes",
            lambda: by_bytes(model, tokenizer, texts, denominator=terms.denominator, **options),
        ),
        "density": attempt("density", lambda: _density(opened, terms)),
        "gap": attempt("gap", lambda: _gap(opened, teacher, terms)),
    }
    return CurvePoint(
        budget=name,
        budget_bytes=opened.budget_bytes,
        resident_bytes=opened.resident_bytes,
        bits_per_weight=opened.bits_per_weight,
        undefined=undefined,
        **found,
    )


def _density(opened: Opened, terms: _Terms) -> Density:
    found = law_density(opened, terms.law, terms.texts, seed=terms.seed, progress=terms.progress)
    if found.reason is not None:
        raise UserError(found.reason)
    return found


def _gap(opened: Opened, teacher: Opened | None, terms: _Terms) -> Gap:
    if teacher is None:
        raise UserError("no original to compare with; name the model folder it was made from")
    if opened is teacher:
        raise UserError("the original itself")
    return capacity_gap(
        teacher.model,
        opened.model,
        teacher.tokenizer,
        terms.texts,
        student_tokenizer=opened.tokenizer,
        seed=terms.seed,
        progress=terms.progress,
    ).whole
