"""Measures three metrics along a compression curve: one container at several budgets, on one text.

For every budget, and for the original where it is given: information capacity in both variants,
capacity density, and the gap to the original. A metric that is not defined for a model or a text
is None, and `undefined` says why. Does not define the metrics; see `metrics.capacity`,
`metrics.density` and `metrics.gap`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from bitstack.errors import UserError
from bitstack.live.opening import Opened
from bitstack.metrics.capacity.information_capacity import InformationCapacity, by_bytes, faithful
from bitstack.metrics.density.capacity_density import Density
from bitstack.metrics.density.law import DensityLaw
from bitstack.metrics.density.law_file import classics_law
from bitstack.metrics.density.measured import law_density
from bitstack.metrics.gap.capacity_gap import Gap, capacity_gap
from bitstack.metrics.loss.documents import passages, texts_sha256
from bitstack.original.documents import has_rows, read_documents

ORIGINAL = "original"
PASSAGE = 2048  # bytes of the pieces of a text file; a bootstrap interval draws whole pieces
STEPS = ("information capacity", "capacity by bytes", "density", "gap")
Step = Callable[[str], AbstractContextManager[Any]]  # entered for every metric, by its name


@dataclass(frozen=True)
class CurvePoint:
    """One model: its size and what was measured of it."""

    budget: str  # its name, or "original"
    resident_bytes: int  # of the whole model
    faithful: InformationCapacity | None  # as published
    by_bytes: InformationCapacity | None
    density: Density | None
    gap: Gap | None  # to the original
    undefined: dict[str, str]  # why a metric is None, by its field's name


@dataclass(frozen=True)
class MetricsCurve:
    """The measurements of the original, where it is given, and of every budget, on one text."""

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
class Metrics:
    """What the metrics of all models are measured with."""

    texts: list[str]
    law: DensityLaw = field(default_factory=classics_law)
    denominator: str = "bytes"  # cost in information capacity by bytes: "bytes" moved, or "flops"
    seed: int = 0

    def point(
        self, name: str, opened: Opened, teacher: Opened | None, step: Step = nullcontext
    ) -> CurvePoint:
        """Measures one model.

        Args:
            name: Of its budget, or ORIGINAL.
            opened: The model.
            teacher: The original; None where it is not there.
            step: Entered while one of STEPS is measured.
        """
        model, tokenizer, texts = opened.model, opened.tokenizer, self.texts
        seed: dict[str, Any] = {"seed": self.seed}
        by_cost = {"denominator": self.denominator} | seed
        metrics: dict[str, Callable[[], Any]] = {
            "faithful": lambda: faithful(model, tokenizer, texts, **seed),
            "by_bytes": lambda: by_bytes(model, tokenizer, texts, **by_cost),
            "density": lambda: _density(opened, self),
            "gap": lambda: _gap(opened, teacher, self),
        }
        undefined: dict[str, str] = {}
        values: dict[str, Any] = dict.fromkeys(metrics)
        for words, (metric, measure) in zip(STEPS, metrics.items(), strict=True):
            with step(words):
                try:
                    values[metric] = measure()
                except UserError as error:
                    undefined[metric] = " ".join(str(error).split())
        return CurvePoint(
            budget=name, resident_bytes=opened.resident_bytes, undefined=undefined, **values
        )

    def curve(self, source: str, points: list[CurvePoint]) -> MetricsCurve:
        """Returns the points, and what they were measured on: the first part of a text `source`."""
        return MetricsCurve(
            text=source,
            text_sha256=texts_sha256(self.texts),
            documents=len(self.texts),
            text_bytes=sum(len(one.encode()) for one in self.texts),
            law=None if self.law.protocol is None else self.law.protocol.text,
            denominator=self.denominator,
            seed=self.seed,
            points=points,
        )


def first_texts(source: str, max_bytes: int | None = None) -> list[str]:
    """Returns the first documents of a text source, no byte more than `max_bytes`.

    A text file is cut into passages of PASSAGE bytes, the last of which may be shorter.

    Args:
        source: As in `original.documents`.
        max_bytes: UTF-8 bytes, at least 4; None for all.

    Raises:
        UserError: as in `read_documents`.
    """
    return list(_first(source, max_bytes))


def _first(source: str, room: int | None) -> Iterator[str]:
    whole = has_rows(source)
    for document in read_documents(source):
        for text in [document] if whole else passages(document, PASSAGE):
            if room is not None and room < 4:  # of the longest character
                return
            size = len(text.encode())
            yield text if room is None or size <= room else next(passages(text, room))
            room = None if room is None else room - size


def _density(opened: Opened, metrics: Metrics) -> Density:
    density = law_density(opened, metrics.law, metrics.texts, seed=metrics.seed)
    if density.reason is not None:
        raise UserError(density.reason.removeprefix("not defined: "))
    return density


def _gap(opened: Opened, teacher: Opened | None, metrics: Metrics) -> Gap:
    if teacher is None:
        raise UserError("no original to compare with; name the model folder it was made from")
    if opened is teacher:
        raise UserError("the original itself")
    return capacity_gap(
        teacher.model,
        opened.model,
        teacher.tokenizer,
        metrics.texts,
        student_tokenizer=opened.tokenizer,
        seed=metrics.seed,
    ).whole
