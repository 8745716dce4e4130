"""Reads and writes `bitstack.json`, which lists what a container holds.

It is written last, so a folder without it is an unfinished run. Does not hold values of tensors;
see `container.shards`.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bitstack.container.blocks import StackSpec
from bitstack.container.budget import Budgets
from bitstack.errors import UserError
from bitstack.machine.files import publish
from bitstack.original.matrices import Dense, Matrix

MANIFEST = "bitstack.json"
# 2: stacks whose upper levels have planes of their own; 3: any number of chains; 4: rotated inputs;
# 5: outliers; 6: embedding and head in parts of some rows
FORMAT = 6
INDEX = "model.safetensors.index.bitstack.json"

_SHAPE = (
    "format",
    "levels",
    "rank",
    "ends",
    "rotation",
    "outliers",
)  # fields of a StackSpec kept here


class StackEntry(BaseModel):
    """One stack: the matrix it stands for and its shape."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parameter: str
    module: str
    kind: str
    rows: int
    columns: int
    layer: int | None = None
    expert: int | None = None
    transposed: bool = False
    tied: str | None = None
    first_row: int | None = None
    format: Literal["codes", "signs"]
    levels: int
    rank: int = 0
    ends: tuple[int, ...] = ()
    rotation: int = Field(0, ge=0, lt=2**63)  # an operator of torch takes a seed of 64 bits
    outliers: int = Field(0, ge=0)
    # Relative squared error of each level under the calibration moment, before tuning.
    errors: list[float] = []

    @model_validator(mode="before")
    @classmethod
    def _read_format_2(cls, data: Any) -> Any:
        """Turns `base` into `ends`: the last level of the lower of two chains, 0 for one chain.

        A stack that was saved cut within its lower chain kept its `base`.
        """
        if not isinstance(data, dict) or "base" not in data or "ends" in data:
            return data
        rest = {key: value for key, value in data.items() if key != "base"}
        base, levels = data["base"], data.get("levels")
        cut = isinstance(base, int) and isinstance(levels, int) and base >= levels
        return rest | {"ends": [base] if base and not cut else []}

    @field_validator("ends")
    @classmethod
    def _check_ends(cls, ends: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        bounds = [0, *ends, info.data.get("levels", 0)]
        if any(end <= below for below, end in pairwise(bounds)):
            raise ValueError(f"{list(ends)}: not rising from 1 to below the last level")
        return ends

    @classmethod
    def of(cls, matrix: Matrix, spec: StackSpec, errors: list[float]) -> "StackEntry":
        """Returns the entry of a matrix; `errors` are the relative errors of its levels."""
        own = {key: getattr(matrix, key) for key in Matrix.__dataclass_fields__}
        shape = {key: getattr(spec, key) for key in _SHAPE}
        return cls(**own, **shape, errors=errors)

    def cut(self, level: int) -> "StackEntry":
        """Returns the same stack without its levels above `level`."""
        ends = tuple(end for end in self.ends if end < level)
        kept = {"levels": level, "ends": ends, "errors": self.errors[:level]}
        return StackEntry(**self.model_dump() | kept)

    @cached_property
    def matrix(self) -> Matrix:
        return Matrix(**{key: getattr(self, key) for key in Matrix.__dataclass_fields__})

    @cached_property
    def spec(self) -> StackSpec:
        shape = (self.rows, self.columns, self.levels)
        return StackSpec(self.format, *shape, self.rank, self.ends, self.rotation, self.outliers)


class DenseEntry(BaseModel):
    """One tensor left dense; if not `persistent`, a buffer that the model makes itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    shape: list[int]
    dtype: str
    bytes: int
    persistent: bool

    @classmethod
    def of(cls, dense: Dense) -> "DenseEntry":
        return cls(
            name=dense.name,
            shape=list(dense.shape),
            dtype=str(dense.dtype).removeprefix("torch."),
            bytes=dense.bytes,
            persistent=dense.persistent,
        )


class ShardEntry(BaseModel):
    """One safetensors file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Everything about a container but its tensors.

    `order` lists stack indices: after the floor, where every stack is at level 1, each appearance
    raises that stack by one level. `original_bytes` counts the original model in memory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    format: int = FORMAT
    base_model: str
    original_bytes: int
    dtype: str
    stacks: list[StackEntry]
    dense: list[DenseEntry]
    order: list[int]
    losses: list[float] = []  # predicted loss increase (nats per token) after each step of order
    shards: list[ShardEntry]
    recipe: dict[str, Any]
    text: dict[str, Any] | None = None
    versions: dict[str, str]

    @property
    def guard(self) -> str:
        """The parameter under whose name the shards hold an empty tensor.

        Without bitstack, transformers would fill such a model with random weights and only warn,
        but it refuses a tensor of the wrong shape.
        """
        return self.stacks[0].parameter

    @cached_property
    def weights(self) -> int:
        """Number of decomposed weights."""
        return sum(entry.rows * entry.columns for entry in self.stacks)

    @cached_property
    def parameters(self) -> int:
        """Number of parameters of the original model: decomposed ones and dense ones."""
        return self.weights + sum(prod(entry.shape) for entry in self.dense if entry.persistent)

    @cached_property
    def fixed_bytes(self) -> int:
        """Bytes of everything dense in the loaded model."""
        return sum(entry.bytes for entry in self.dense)

    def tensors(self, levels: Sequence[int]) -> Iterator[str]:
        """Yields the names of the stored tensors that the model needs at `levels`, one a stack."""
        yield from (entry.name for entry in self.dense if entry.persistent)
        for entry, level in zip(self.stacks, levels, strict=True):
            yield from (f"{entry.name}.{t.name}" for t in entry.spec.resident(level))

    @cached_property
    def budgets(self) -> Budgets:
        """The sizes of this model at every point of its order."""
        return Budgets(
            stack_bytes=[entry.spec.bytes() for entry in self.stacks],
            fixed_bytes=self.fixed_bytes,
            order=self.order,
            weights=[entry.rows * entry.columns for entry in self.stacks],
        )

    def write(self, folder: Path) -> None:
        """Writes `bitstack.json`, whole or not at all."""
        partial = folder / f"{MANIFEST}.partial"
        partial.write_text(self.model_dump_json(indent=1, exclude_defaults=False))
        publish(partial, folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks `bitstack.json`.

    Does not look at the shards: which of them must be there depends on the budget.

    Raises:
        UserError: The folder is missing, unfinished, damaged, or of a newer format.
    """
    if not folder.is_dir():
        raise UserError(f"container {folder}: no such folder; make one with `compress-model run`")
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder}: no {MANIFEST}, so it is not a finished bitstack container; run "
            "`compress-model run MODEL --output DIR` (again)"
        )
    try:
        data = json.loads(path.read_text())
        newer = data.get("format") if isinstance(data, dict) else None
        if isinstance(newer, int) and newer > FORMAT:
            raise UserError(
                f"{path}: format {newer} was made by a newer bitstack (this one reads up to "
                f"{FORMAT}); upgrade bitstack"
            )
        return Manifest.model_validate(data)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged ({reason}); copy the container again") from None
