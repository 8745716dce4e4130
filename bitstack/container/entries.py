"""The entries of a manifest, each within bounds: a stack, a dense tensor, a file, a cache.

Everything is bounded, so that a manifest that came from elsewhere cannot ask for absurd work. How
entries fit one another is checked in `container.consistency`.
"""

from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bitstack.container import checksums
from bitstack.container.blocks import StackSpec
from bitstack.container.dtypes import BYTES
from bitstack.original.matrix import Dense, Matrix

MOST_CODE_LEVELS = 8  # a code fits into one byte
_MOST_BYTES = 2**50  # of one tensor or file: a pebibyte

# Printable ASCII without white space and slashes; torch parts names at dots.
Name = Annotated[str, Field(pattern=r"^[!-.0-\[\]-~]+$", max_length=500)]
Size = Annotated[int, Field(ge=1, lt=2**31)]
Index = Annotated[int, Field(ge=0, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Checksum = Annotated[str, Field(pattern=checksums.PATTERN)]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*\.safetensors$", max_length=200)]
DtypeName = Literal[
    "bool", "uint8", "int8", "int16", "int32", "int64",
    "float16", "bfloat16", "float32", "float64",
]  # fmt: skip

_SHAPE = ("format", "levels", "rank", "ends", "rotation", "outliers")  # StackSpec's fields kept


class Entry(BaseModel):
    """A part of the manifest: no other fields, no conversions, no changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, ignored_types=(cached_property,)
    )


class StackEntry(Entry):
    """One stack: the matrix it stands for and its shape."""

    name: Name
    parameter: Name
    module: Name
    kind: Literal["linear", "conv1d", "expert", "embedding", "head"]
    rows: Size
    columns: Size
    layer: Index | None = None
    expert: Index | None = None
    transposed: bool = False
    tied: Name | None = None
    first_row: Index | None = None
    format: Literal["codes", "signs"]
    levels: int = Field(ge=1, le=32)
    rank: int = Field(0, ge=0, lt=2**31)
    ends: Annotated[tuple[int, ...], Field(strict=False, max_length=MOST_CODE_LEVELS)] = ()
    rotation: int = Field(0, ge=0, lt=2**63)  # an operator of torch takes a seed of 64 bits
    outliers: int = Field(0, ge=0, lt=2**62)
    # Relative squared error of each level under the calibration moment, before tuning.
    errors: list[Finite] = Field(default_factory=list, max_length=32)

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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        bounds = [0, *self.ends, self.levels]
        if any(end <= below for below, end in pairwise(bounds)):
            raise ValueError(f"ends {list(self.ends)}: not rising from 1 to below the last level")
        if self.outliers > self.rows * self.columns:
            raise ValueError(f"outliers {self.outliers}: more than {self.rows} x {self.columns}")
        if self.format == "codes":
            possible = self.levels <= MOST_CODE_LEVELS and not self.rank
        else:
            low_rank = 1 <= self.rank <= min(self.rows, self.columns)
            possible = low_rank and not (self.ends or self.rotation or self.outliers)
        if not possible:
            raise ValueError(f"levels, rank, ends, rotation or outliers: not for {self.format}")
        return self

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


class DenseEntry(Entry):
    """One tensor left dense; if not `persistent`, a buffer that the model makes itself."""

    name: Name
    shape: Annotated[list[Index], Field(max_length=8)]
    dtype: DtypeName
    bytes: int = Field(ge=0, le=_MOST_BYTES)
    persistent: bool

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needed = prod(self.shape) * BYTES[self.dtype]
        if self.bytes != needed:
            raise ValueError(f"bytes {self.bytes}: {self.shape} of {self.dtype} has {needed}")
        return self

    @classmethod
    def of(cls, dense: Dense) -> "DenseEntry":
        return cls(
            name=dense.name,
            shape=list(dense.shape),
            dtype=str(dense.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            bytes=dense.bytes,
            persistent=dense.persistent,
        )


class CacheEntry(Entry):
    """What some layers of the model keep of a text, in bytes of the model's dtype: `fixed` of any
    text, and `per_token` of each of its tokens, or of its last `window` ones."""

    window: Index | None
    fixed: int = Field(ge=0, le=_MOST_BYTES)
    per_token: int = Field(ge=0, le=_MOST_BYTES)

    def bytes(self, context: int) -> int:
        """Returns the bytes kept of one sequence of `context` tokens."""
        kept = context if self.window is None else min(context, self.window)
        return self.fixed + self.per_token * kept


class ShardEntry(Entry):
    """One safetensors file. `checksums` has one for each of its tensors, in universal order; None
    in containers of formats 1 to 6."""

    file: FileName
    bytes: int = Field(ge=8, le=_MOST_BYTES)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    checksums: list[Checksum] | None = None
