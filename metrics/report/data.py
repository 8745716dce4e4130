"""What a report says, as plain values: no measuring and no drawing.

Everything about a container that needs no measurement is read off its manifest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from bitstack.container.manifest import Manifest
from bitstack.container.planning import PlanRow
from bitstack.metrics.loss.evaluation import Evaluation
from bitstack.metrics.report.along_curve import MetricsCurve
from bitstack.metrics.tasks.scores import TaskScore

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one model: loss and speed (None: no text was given), task scores."""

    scored: Evaluation | None = None
    tokens_per_second: float | None = None
    tasks: tuple[TaskScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All fields; a task's score without the values of its documents."""
        return {
            "scored": self.scored and self.scored.to_json(),
            "tokens_per_second": self.tokens_per_second,
            "tasks": [score.to_json() for score in self.tasks],
        }


@dataclass(frozen=True)
class Row(Measured):
    """One budget: what it buys, and what was measured of it."""

    name: str  # floor, 2bpw, everything, or as asked for
    plan: PlanRow
    blocks: int  # loaded after the floor

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        own = {"name": self.name, "plan": asdict(self.plan), "blocks": self.blocks}
        return own | super().to_json()


@dataclass(frozen=True)
class Tasks:
    """Benchmark tasks that every model runs, and how."""

    names: tuple[str, ...]  # as asked for: a group is one name
    folder: str | None = None  # of the data, or of task files
    limit: int | None = None  # documents of a task, None for all
    seed: int = 0  # of the intervals


@dataclass(frozen=True)
class DenseGroup:
    """The same tensor of all layers, left dense."""

    name: str  # layer numbers left out
    count: int
    shape: tuple[int, ...] | None  # None where they differ
    dtype: str
    bytes: int  # of all of them


@dataclass(frozen=True)
class Report:
    """A container, its rows in order of bytes, and how they were measured."""

    container: str  # as named
    manifest: Manifest
    rows: list[Row]
    original: Measured | None = None  # the model it was made from, measured the same way
    metrics: MetricsCurve | None = None  # at the budgets of `rows`
    tasks: Tasks | None = None
    environment: dict[str, Any] = field(default_factory=dict)  # what ran, on what, when

    @cached_property
    def sizes(self) -> list[int]:
        """Resident bytes of the whole model at every point of the order, the floor first."""
        budgets = self.manifest.budgets
        return prefix_bytes(budgets.stack_bytes, budgets.order, budgets.floor_bytes)

    @property
    def measured(self) -> list[Row]:
        """The rows with a loss."""
        return [row for row in self.rows if row.scored is not None]

    @cached_property
    def dense(self) -> list[DenseGroup]:
        """What was left dense, the most bytes first."""
        return dense_groups(self.manifest)

    def to_json(self) -> dict[str, Any]:
        """Every number of the page, for `write_json`."""
        manifest = self.manifest
        return {
            "format": FORMAT,
            "container": self.container,
            "base_model": manifest.base_model,
            "original_bytes": manifest.original_bytes,
            "floor_bytes": manifest.budgets.floor_bytes,
            "total_bytes": manifest.budgets.total_bytes,
            "fixed_bytes": manifest.fixed_bytes,
            "weights": manifest.weights,
            "dtype": manifest.dtype,
            "original": self.original and self.original.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "tasks": self.tasks and asdict(self.tasks),
            "metrics": self.metrics and self.metrics.to_json(),
            "order": self.steps(),
            "dense": [asdict(group) for group in self.dense],
            "recipe": manifest.recipe,
            "text": manifest.text,
            "versions": manifest.versions,
            "environment": self.environment,
        }

    def steps(self) -> list[dict[str, Any]]:
        """Every block of the order: its stack, the level it brings, and all bytes with it."""
        levels = [1] * len(self.manifest.stacks)
        steps = []
        for stack, size in zip(self.manifest.order, self.sizes[1:], strict=True):
            levels[stack] += 1
            name = self.manifest.stacks[stack].name
            steps.append({"stack": name, "level": levels[stack], "resident_bytes": size})
        return steps


def prefix_bytes(stack_bytes: Sequence[Sequence[int]], order: Sequence[int], floor: int) -> list:
    """Bytes of every prefix of the order, from none of it (`floor`) to all."""
    levels = [0] * len(stack_bytes)
    added = []
    for stack in order:
        levels[stack] += 1
        own = stack_bytes[stack]
        added.append(own[levels[stack]] - own[levels[stack] - 1])
    return list(accumulate(added, initial=floor))


def dense_groups(manifest: Manifest) -> list[DenseGroup]:
    """Tensors of one name but for the layer's number are one group."""
    groups: dict[tuple[str, str], list] = {}
    for entry in manifest.dense:
        groups.setdefault((_without_numbers(entry.name), entry.dtype), []).append(entry)
    found = []
    for (name, dtype), entries in groups.items():
        shapes = {tuple(entry.shape) for entry in entries}
        shape = shapes.pop() if len(shapes) == 1 else None
        found.append(DenseGroup(name, len(entries), shape, dtype, sum(e.bytes for e in entries)))
    return sorted(found, key=lambda group: (-group.bytes, group.name))


def _without_numbers(name: str) -> str:
    parts = [part if not part.isdecimal() else "*" for part in name.split(".")]
    return ".".join(parts)
