"""Compares containers on one page: the loss and the KL divergence of each over its bytes.

Containers are measured like one alone; earlier reports are read from their JSON. Does not measure,
see `metrics.report.figures`; does not read, see `metrics.report.series`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitstack.errors import UserError
from bitstack.machine.files import write_json, write_text
from bitstack.metrics.report.axis import BytesAxis, LinearAxis, LogAxis
from bitstack.metrics.report.data import FORMAT
from bitstack.metrics.report.figures import collect
from bitstack.metrics.report.render import output_files, template
from bitstack.metrics.report.series import Point, Series, read_records, series

PAGE, NOTES = "compare.html.j2", "compare.md.j2"


@dataclass(frozen=True)
class Comparison:
    """Reports, as they are kept in JSON, and their lines."""

    records: list[dict[str, Any]]
    lines: list[Series]

    @property
    def strangers(self) -> list[str]:
        """Names of the lines whose loss was measured otherwise than that of the first with one."""
        terms = [line.terms for line in self.lines if line.terms]
        return [line.name for line in self.lines if line.terms and line.terms != terms[0]]

    @property
    def sizes(self) -> list[int]:
        """The measured bytes of the first line at which every line has a loss."""
        first, *others = self.lines
        measured = [point.bytes for point in first.points if point.loss is not None]
        return [b for b in measured if all(one.loss_at(b) is not None for one in others)]

    def at(self, size: int) -> list[float]:
        """Returns the loss of every line at one of `sizes`."""
        return [loss for line in self.lines if (loss := line.loss_at(size)) is not None]

    def to_json(self) -> dict[str, Any]:
        """Returns the reports, for `write_json`; `read_records` reads them back."""
        return {"format": FORMAT, "reports": self.records}


@dataclass(frozen=True)
class Drawing:
    """One chart: a line for every container, in its number."""

    title: str
    unit: str
    x: BytesAxis
    y: LinearAxis | LogAxis
    dots: list[list[tuple[Point, float, float, float]]]  # of a line: value, and percent x and y

    def path(self, number: int) -> str:
        """The line through the dots, for a drawing of 100 × 100 with y downwards."""
        return "M" + " L".join(f"{x:.3f} {100 - y:.3f}" for _, _, x, y in self.dots[number])


def compare(sources: Sequence[str | Path], **options: Any) -> Comparison:
    """Measures or reads every one of `sources`.

    Args:
        sources: Containers, and JSON files of earlier reports.
        options: As in `collect`, for the containers.

    Raises:
        UserError: as in `collect` and `read_records`, or a container is to be compared, but there
            is no text to measure it on.
    """
    files = [str(source).endswith(".json") for source in sources]
    if not all(files) and options.get("text") is None:
        name = next(source for source, is_file in zip(sources, files, strict=True) if not is_file)
        raise UserError(
            f"{name}: is compared by what is measured of it; name a text with --text, or the .json "
            "of its report instead of the container"
        )
    # Files first: a wrong one is refused before hours of measuring.
    read = [str(source) for source, is_file in zip(sources, files, strict=True) if is_file]
    kept = {source: read_records(Path(source)) for source in read}
    records: list[dict[str, Any]] = []
    for source in sources:
        records += kept.get(str(source)) or [collect(source, **options).to_json()]
    names = _names([str(record["container"]) for record in records])
    return Comparison(records, [series(*pair) for pair in zip(records, names, strict=True)])


def write_comparison(made: Comparison, output: str | Path) -> list[Path]:
    """Writes page, Markdown and JSON, as `write_report` does, and returns their paths."""
    page, notes, numbers = files = output_files(output)
    drawings = [one for one in (_loss(made), _kl(made)) if one]
    contents = [
        template(name).render(made=made, drawings=drawings, sizes=made.sizes)
        for name in (PAGE, NOTES)
    ]
    write_json(numbers, made.to_json(), option="--output")
    write_text(notes, contents[1], option="--output")
    write_text(page, contents[0], option="--output")
    return list(files)


def _names(containers: list[str]) -> list[str]:
    """Returns the last part of every name, all of it where others end alike, and numbers twins."""
    of = {whole: Path(whole).name or whole for whole in containers}
    ends, seen, names = Counter(of.values()), Counter[str](), []
    for whole in containers:
        name = of[whole] if ends[of[whole]] == 1 else whole
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _loss(made: Comparison) -> Drawing | None:
    return _drawing(made, "Loss", "bits per byte, lower is better", lambda p: p.loss, LinearAxis)


def _kl(made: Comparison) -> Drawing | None:
    title, unit = "KL divergence", "nats per token from the original, lower is better"
    return _drawing(made, title, unit, lambda p: p.kl if p.kl else None, LogAxis)


def _drawing(
    made: Comparison, title: str, unit: str, value: Callable[[Point], float | None], axis: Any
) -> Drawing | None:
    lines = [[(p, v) for p in one.points if (v := value(p)) is not None] for one in made.lines]
    values = [v for line in lines for _, v in line]
    if not values:
        return None
    x = BytesAxis.over([p.bytes for line in lines for p, _ in line])
    y = axis.over(values)
    return Drawing(
        title, unit, x, y, [[(p, v, x.place(p.bytes), y.place(v)) for p, v in one] for one in lines]
    )
