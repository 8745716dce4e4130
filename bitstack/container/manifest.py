"""Reads and writes `bitstack.json`, which lists what a container holds.

It is written last, so a folder without it is an unfinished run. What is read has passed every
check here, in `container.entries` and in `container.consistency`, so that all others may rely on
it. Does not hold values of tensors; see `container.shards`.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from bitstack.container import checksums
from bitstack.container.blocks import StackSpec, TensorSpec, stored_tensors
from bitstack.container.budget import Budgets
from bitstack.container.consistency import (
    check_buffers,
    check_order,
    check_shards,
    check_stacks,
)
from bitstack.container.entries import (
    CacheEntry,
    Checksum,
    DenseEntry,
    Entry,
    Finite,
    ShardEntry,
    Size,
    StackEntry,
)
from bitstack.errors import UserError
from bitstack.machine.files import publish
from bitstack.machine.json_file import parse_json, read_bytes, reason_of
from bitstack.machine.plain_files import plain_file

MANIFEST = "bitstack.json"
FOLDER = ".work"  # of an unfinished run; see `container.journal`
# 2: stacks whose upper levels have planes of their own; 3: any number of chains; 4: rotated inputs;
# 5: outliers; 6: embedding and head in parts of some rows; 7: checksums; 8: KV cache
FORMAT = 8
FIRST_WITH_CHECKSUMS = 7
FIRST_WITH_CACHE = 8
INDEX = "model.safetensors.index.bitstack.json"
MOST_BYTES = 64 << 20  # of the manifest; 20,000 stacks of 8 levels have about 20 MB
_MOST_CACHES = 1000  # one for each length of window
_UNSUMMED = {"checksum", "files"}  # what the manifest's own checksum leaves out


class Manifest(Entry):
    """Everything about a container but its tensors.

    `order` lists stack indices: after the floor, where every stack is at level 1, each appearance
    raises that stack by one level. `original_bytes` counts the original model in memory. `files`
    has the checksums of the small files beside the tensors, `checksum` that of everything else in
    the manifest; it is set when the manifest is written.
    """

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    base_model: Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
    original_bytes: int = Field(ge=1, le=2**50)
    dtype: Literal["bfloat16", "float16", "float32", "float64"]
    stacks: list[StackEntry]
    dense: list[DenseEntry]
    order: list[int]
    # Predicted loss increase (nats per token) after each step of order.
    losses: list[Finite] = Field(default_factory=list)
    shards: list[ShardEntry]
    recipe: dict[str, Any]
    text: dict[str, Any] | None = None
    versions: dict[str, str]
    positions: Size | None = None  # most tokens that the model reads at once; None: not known
    # Of the KV cache of one sequence; None: the model keeps none, or one that grows otherwise.
    kv_cache: Annotated[list[CacheEntry], Field(max_length=_MOST_CACHES)] | None = None
    files: dict[str, Checksum] = Field(default_factory=dict)
    checksum: Checksum | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_stacks(self.stacks, self.dense)
        check_order(self.stacks, self.order)
        stored = [*self.stored.values()]
        check_buffers(self.dense, sum(tensor.bytes for tensor in stored))
        check_shards(self.shards, stored, wanted=self.format >= FIRST_WITH_CHECKSUMS)
        return self

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

    @cached_property
    def stored(self) -> dict[str, TensorSpec]:
        """Every tensor of the files by its name, in universal order, which begins with the guard.

        Raises:
            ValueError: Two have the same name.
        """
        dense = {d.name: (d.dtype, d.shape) for d in self.dense if d.persistent}
        return stored_tensors(self.guard, dense, self.specs, self.order)

    @property
    def has_checksums(self) -> bool:
        """Whether there is a checksum for every tensor; there is from format 7 on."""
        return all(shard.checksums is not None for shard in self.shards)

    @cached_property
    def specs(self) -> dict[str, StackSpec]:
        """The shape of every stack by its name."""
        return {entry.name: entry.spec for entry in self.stacks}

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
        """Writes `bitstack.json` with its checksum, whole or not at all."""
        content = json.loads(self.model_dump_json())
        signed = self.model_copy(update={"checksum": checksum_of(content)})
        partial = folder / f"{MANIFEST}.partial"
        partial.write_text(signed.model_dump_json(indent=1, exclude_defaults=False))
        publish(partial, folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks `bitstack.json`.

    Does not look at the shards: which of them must be there depends on the budget.

    Raises:
        UserError: The folder is missing, unfinished, damaged, or of a newer format.
    """
    if not folder.is_dir():
        raise UserError(f"container {folder}: no such folder; make one with `compress-model run`")
    path = plain_file(folder, MANIFEST)
    if not path.exists():
        raise UserError(
            f"{folder}: no {MANIFEST}, so it is not a finished bitstack container; run "
            "`compress-model run MODEL --output DIR` (again)"
        )
    try:
        data = parse_json(read_bytes(path, MOST_BYTES))
        newer = data.get("format") if isinstance(data, dict) else None
        if isinstance(newer, int) and newer > FORMAT:
            raise UserError(
                f"{path}: format {newer} was made by a newer bitstack (this one reads up to "
                f"{FORMAT}); upgrade bitstack"
            )
        manifest = Manifest.model_validate(data)
        _check_checksum(manifest, data)
        return manifest
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = _problem(error) if isinstance(error, ValidationError) else reason_of(error)
        raise UserError(f"{path}: damaged ({reason}); copy the container again") from None


def checksum_of(data: dict[str, Any]) -> str:
    """Returns the checksum of a manifest's JSON: of all of it but `checksum` and `files`."""
    return checksums.of_json({key: data[key] for key in data if key not in _UNSUMMED})


def _check_checksum(manifest: Manifest, data: dict[str, Any]) -> None:
    if manifest.checksum is None and manifest.format < FIRST_WITH_CHECKSUMS:
        return
    if checksum_of(data) != manifest.checksum:
        raise ValueError("its checksum is another: it was changed after it was written")


def _problem(error: ValidationError) -> str:
    """Returns the first problem that pydantic found, with the field and what stands there."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    given = "" if isinstance(first["input"], dict | list) else f" (given: {first['input']!r:.60})"
    text = first["msg"].removeprefix("Value error, ")
    return reason_of(ValueError(f"{field}: {text}{given}" if field else f"{text}{given}"))
