"""Holds what a report says, as plain values.

Everything about a container that needs no measurement is read from its manifest. Does not measure,
see `metrics.report.figures`; does not draw, see `metrics.report.charts`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from bitstack.container.entries import CacheEntry
from bitstack.container.making import Making
from bitstack.container.manifest import Manifest
from bitstack.container.planning import PlanRow
from bitstack.metrics.loss.evaluation import Evaluation
from bitstack.metrics.report.along_curve import ORIGINAL, MetricsCurve
from bitstack.metrics.tasks.predicted import ScoreAt
from bitstack.metrics.tasks.scores import TaskScore

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one model."""

    scored: Evaluation | None = None  # loss; None: no text was given
    tokens_per_second: float | None = None  # None: no text was given
    tasks: tuple[TaskScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns all fields; a task's score without the values of its documents."""
        return {
            "scored": self.scored and self.scored.to_json(),
            "tokens_per_second": self.tokens_per_second,
            "tasks": [score.to_json() for score in self.tasks],
        }


@dataclass(frozen=True)
class Row(Measured):
    """One budget: the model that fits it, and what was measured of that model."""

    name: str  # floor, 2bpw, everything, or as given
    plan: PlanRow
    blocks: int  # of the order that are loaded, beyond the floor
    predicted: tuple[ScoreAt, ...] = ()  # task scores, where the tasks were not run

    def to_json(self) -> dict[str, Any]:
        """Returns all fields."""
        own = {"name": self.name, "plan": asdict(self.plan), "blocks": self.blocks}
        own |= {"predicted": [asdict(score) for score in self.predicted]}
        return own | super().to_json()


@dataclass(frozen=True)
class Tasks:
    """Benchmark tasks that the original and the budgets run, and how."""

    names: tuple[str, ...]  # as given: a group is one name
    folder: str | None = None  # of the tasks' data, or of task files
    limit: int | None = None  # documents of a task, None for all
    seed: int = 0  # of the random draws behind the intervals
    budgets: tuple[str, ...] = ()  # names of those that run them; none: all do

    def run_at(self, name: str) -> bool:
        """Whether the model of this name runs them."""
        return not self.budgets or name in (ORIGINAL, *self.budgets)


@dataclass(frozen=True)
class Memory:
    """What a text in work takes beside the model."""

    positions: int | None  # the most tokens that the model reads; None: no limit is known
    cache: list[CacheEntry] | None  # None: the model keeps none, or one of an unknown kind

    def bytes(self, context: int) -> int:
        """Returns what the cache of a text of `context` tokens takes."""
        return sum(entry.bytes(context) for entry in self.cache or [])

    def to_json(self) -> dict[str, Any]:
        """Returns all fields."""
        cache = None if self.cache is None else [entry.model_dump() for entry in self.cache]
        return {"positions": self.positions, "cache": cache}


@dataclass(frozen=True)
class DenseGroup:
    """The same tensor of all layers, left uncompressed."""

    name: str  # with * for the numbers of layers
    count: int
    shape: tuple[int, ...] | None  # None where shapes differ
    dtype: str
    bytes: int  # of all of them together


@dataclass(frozen=True)
class Report:
    """A container, its budgets, and how they were measured."""

    container: str  # folder or Hub name, as given
    manifest: Manifest
    rows: list[Row]  # in order of bytes
    original: Measured | None = None  # the model it was made from, measured in the same way
    metrics: MetricsCurve | None = None  # at the budgets of `rows`
    tasks: Tasks | None = None
    environment: dict[str, Any] = field(default_factory=dict)  # software, machine and date
    memory: Memory = Memory(None, None)
    making: Making | None = None  # None: not known

    @cached_property
    def sizes(self) -> list[int]:
        """Resident bytes of the whole model at every point of the order, the floor first."""
        budgets = self.manifest.budgets
        return prefix_bytes(budgets.stack_bytes, budgets.order, budgets.floor_bytes)

    @property
    def context(self) -> int | None:
        """Tokens of the text whose KV cache is counted; None for a model that keeps none."""
        return self.rows[0].plan.context if self.rows else None

    @property
    def measured(self) -> list[Row]:
        """The rows with a loss."""
        return [row for row in self.rows if row.scored is not None]

    @cached_property
    def dense(self) -> list[DenseGroup]:
        """The tensors left uncompressed, the most bytes first."""
        return dense_groups(self.manifest)

    def to_json(self) -> dict[str, Any]:
        """Returns every number of the page, for `write_json`."""
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
            "checksum": manifest.checksum,
            "making": self.making and asdict(self.making),
            "memory": self.memory.to_json(),
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
        """Returns every block of the order: its stack, its level, and resident bytes with it."""
        levels = [1] * len(self.manifest.stacks)
        steps = []
        for stack, size in zip(self.manifest.order, self.sizes[1:], strict=True):
            levels[stack] += 1
            name = self.manifest.stacks[stack].name
            steps.append({"stack": name, "level": levels[stack], "resident_bytes": size})
        return steps


def prefix_bytes(stack_bytes: Sequence[Sequence[int]], order: Sequence[int], floor: int) -> list:
    """Returns the bytes of every prefix of the order, from none of it (`floor`) to all of it.

    Args:
        stack_bytes: Resident bytes of every stack at level 1, 2, …
        order: The stack that gets the next block, for every block.
        floor: Bytes of the whole model with every stack at level 1.
    """
    levels = [0] * len(stack_bytes)
    added = []
    for stack in order:
        levels[stack] += 1
        own = stack_bytes[stack]
        added.append(own[levels[stack]] - own[levels[stack] - 1])
    return list(accumulate(added, initial=floor))


def dense_groups(manifest: Manifest) -> list[DenseGroup]:
    """Groups the uncompressed tensors whose names differ only in the number of a layer."""
    groups: dict[tuple[str, str], list] = {}
    for entry in manifest.dense:
        groups.setdefault((_without_numbers(entry.name), entry.dtype), []).append(entry)
    dense = []
    for (name, dtype), entries in groups.items():
        shapes = {tuple(entry.shape) for entry in entries}
        shape = shapes.pop() if len(shapes) == 1 else None
        dense.append(DenseGroup(name, len(entries), shape, dtype, sum(e.bytes for e in entries)))
    return sorted(dense, key=lambda group: (-group.bytes, group.name))


def _without_numbers(name: str) -> str:
    parts = [part if not part.isdecimal() else "*" for part in name.split(".")]
    return ".".join(parts)
