"""The gap between two models by name: a teacher, and a student that may be a container.

The comparison itself is `capacity_gap`'s business.
"""

from dataclasses import asdict, dataclass
from typing import Any

from bitstack.errors import UserError
from bitstack.live.opening import is_container, open_model
from bitstack.metrics.gap.capacity_gap import CapacityGap, capacity_gap
from bitstack.metrics.loss.documents import read_texts, texts_sha256
from bitstack.original.hub_cache import locate


@dataclass(frozen=True)
class MeasuredGap:
    """Both models as named, their sizes, the text, and the gap."""

    teacher: str
    student: str
    budget_bytes: int | None
    teacher_bytes: int  # resident
    student_bytes: int
    text: str
    text_sha256: str
    gap: CapacityGap

    def to_json(self) -> dict[str, Any]:
        """All fields of both in one object."""
        own = {name: getattr(self, name) for name in MeasuredGap.__dataclass_fields__}
        own.pop("gap")
        return own | asdict(self.gap)


def measure_gap(
    teacher: str,
    student: str,
    text: str,
    *,
    budget: str | None = None,
    window: int | None = None,
    max_bytes: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> MeasuredGap:
    """Open both, read the text, compare. `budget` is the student's.

    Raises UserError for what opening, reading and `capacity_gap` refuse.
    """
    if budget is not None and not is_container(locate(student).folder):
        raise UserError(f"--budget {budget}: is the student's, and {student} is no container")
    documents = read_texts(text, max_bytes=max_bytes)
    strong = open_model(teacher, device=device)
    weak = open_model(student, budget=budget, device=device)
    gap = capacity_gap(
        strong.model,
        weak.model,
        strong.tokenizer,
        documents,
        student_tokenizer=weak.tokenizer,
        window=window,
        seed=seed,
        progress=progress,
    )
    return MeasuredGap(
        teacher=teacher,
        student=student,
        budget_bytes=weak.budget_bytes,
        teacher_bytes=strong.resident_bytes,
        student_bytes=weak.resident_bytes,
        text=text,
        text_sha256=texts_sha256(documents),
        gap=gap,
    )
