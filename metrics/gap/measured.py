"""Measures the gap between two models by name: a teacher, and a student that may be a container.

Does not compare the models itself; see `metrics.gap.capacity_gap`.
"""

from dataclasses import asdict, dataclass
from typing import Any

from bitstack.container.recognition import is_container
from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.metrics.gap.capacity_gap import CapacityGap, capacity_gap
from bitstack.metrics.loss.documents import read_texts, texts_sha256
from bitstack.original.hub_cache import locate


@dataclass(frozen=True)
class MeasuredGap:
    """Two models, their sizes, the text, and the gap."""

    teacher: str  # folder or Hub name, as given
    student: str
    budget_bytes: int | None  # of the student; None: no budget was given
    teacher_bytes: int  # resident
    student_bytes: int
    text: str  # the source, as given
    text_sha256: str
    gap: CapacityGap

    def to_json(self) -> dict[str, Any]:
        """Returns all fields in one object, those of `gap` among them."""
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
    """Opens both models, reads the text source `text`, and compares the models on it.

    Args:
        budget: Of the student, which must then be a container.
        window: Tokens of a window, as in `capacity_gap`.
        max_bytes: Of the text; None reads all.

    Raises:
        UserError: a model or the text cannot be used, or `capacity_gap` refuses them.
    """
    if budget is not None and not is_container(locate(student).folder):
        raise UserError(f"--budget {budget}: is the student's, and {student} is no container")
    documents = read_texts(text, max_bytes=max_bytes)
    opened_teacher = open_model(teacher, device=device)
    opened_student = open_model(student, budget=budget, device=device)
    gap = capacity_gap(
        opened_teacher.model,
        opened_student.model,
        opened_teacher.tokenizer,
        documents,
        student_tokenizer=opened_student.tokenizer,
        window=window,
        seed=seed,
        progress=progress,
    )
    return MeasuredGap(
        teacher=teacher,
        student=student,
        budget_bytes=opened_student.budget_bytes,
        teacher_bytes=opened_teacher.resident_bytes,
        student_bytes=opened_student.resident_bytes,
        text=text,
        text_sha256=texts_sha256(documents),
        gap=gap,
    )
