"""Checks that the entries of a manifest fit one another: names, parts, order, bytes, checksums.

Each check raises ValueError with one line that names the entry. Does not check an entry by itself,
see `container.entries`, or files against the manifest, see `container.reading`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from bitstack.container.blocks import TensorSpec
from bitstack.container.entries import DenseEntry, ShardEntry, StackEntry

_MOST_BUFFERS = 256 << 20  # bytes of tables that a small model may make itself


def check_stacks(stacks: Sequence[StackEntry], dense: Sequence[DenseEntry]) -> None:
    """Checks names, and that the stacks of one parameter are its parts, each once and in order."""
    if not stacks:
        raise ValueError("stacks: there are none")
    _refuse_twice("stacks", (entry.name for entry in stacks))
    members = [list(group) for _, group in groupby(stacks, lambda entry: entry.parameter)]
    heads = [f"{group[0].tied}.weight" for group in members if group[0].tied]
    parameters = [group[0].parameter for group in members]
    _refuse_twice("parameters", [*parameters, *heads, *(entry.name for entry in dense)])
    for group in members:
        _check_names(group)
        _check_parts(group)


def _check_names(group: Sequence[StackEntry]) -> None:
    """Checks that names are those that a matrix of this kind has."""
    for index, entry in enumerate(group):
        if entry.kind == "expert":
            name, module = f"{entry.parameter}.{index}", entry.parameter.rpartition(".")[0]
            in_place = entry.expert == index and entry.first_row is None
        else:
            module = entry.parameter.removesuffix(".weight")
            name = module if entry.first_row is None else f"{module}.{index}"
            in_place = entry.expert is None and entry.parameter != module
        if (entry.name, entry.module) != (name, module) or not in_place:
            raise ValueError(f"stack {entry.name}: name, module or index is not that of its matrix")
        if entry.kind != "expert" and entry.transposed != (entry.kind == "conv1d"):
            raise ValueError(f"stack {entry.name}: transposed is not that of a {entry.kind}")
        if entry.layer is not None and str(entry.layer) not in entry.name.split("."):
            raise ValueError(f"stack {entry.name}: layer {entry.layer} is not in its name")
        if entry.tied and entry.kind != "embedding":
            raise ValueError(f"stack {entry.name}: a {entry.kind} is tied to no LM head")


def _check_parts(group: Sequence[StackEntry]) -> None:
    """Checks that the stacks of one parameter agree and leave no gap."""
    first = group[0]
    if len(group) > 1 and first.kind != "expert" and first.first_row is None:
        raise ValueError(f"stack {first.name}: its parameter has several stacks, but no parts")
    rows = 0
    for entry in group:
        same = (entry.kind, entry.columns, entry.transposed, entry.tied, entry.layer)
        if same != (first.kind, first.columns, first.transposed, first.tied, first.layer):
            raise ValueError(f"stack {entry.name}: is not of the same matrix as {first.name}")
        if entry.kind == "expert" and entry.rows != first.rows:
            raise ValueError(f"stack {entry.name}: has other rows than {first.name}")
        if entry.first_row is not None and entry.first_row != rows:
            raise ValueError(f"stack {entry.name}: begins at row {entry.first_row}, not at {rows}")
        rows += entry.rows


def check_order(stacks: Sequence[StackEntry], order: Sequence[int]) -> None:
    """Checks that the order raises stacks that are there, and none above its top."""
    for index, raised in Counter(order).items():
        if not 0 <= index < len(stacks):
            raise ValueError(f"order: {index} is none of the {len(stacks)} stacks")
        if raised >= stacks[index].levels:
            raise ValueError(f"order: raises {stacks[index].name} above its highest level")


def check_buffers(dense: Sequence[DenseEntry], stored: int) -> None:
    """Checks that the buffers that the model makes itself are no larger than what is stored.

    Args:
        stored: Bytes of all stored tensors.
    """
    made = sum(entry.bytes for entry in dense if not entry.persistent)
    if made > max(stored, _MOST_BUFFERS):
        raise ValueError(f"dense: buffers that are not stored have {made} bytes, which is absurd")


def check_shards(shards: Sequence[ShardEntry], stored: Sequence[TensorSpec], wanted: bool) -> None:
    """Checks that the files have room for the tensors, and a checksum for each.

    Args:
        stored: All stored tensors in universal order.
        wanted: Whether there must be checksums.
    """
    _refuse_twice("shards", (shard.file for shard in shards))
    if sum(shard.bytes for shard in shards) < sum(tensor.bytes for tensor in stored):
        raise ValueError("shards: have fewer bytes than the tensors that they must hold")
    sums = [shard.checksums for shard in shards if shard.checksums is not None]
    if not sums and not wanted:
        return
    if len(sums) != len(shards) or sum(map(len, sums)) != len(stored):
        raise ValueError(f"shards: not one of the checksums for each of {len(stored)} tensors")
    rest = iter(stored)
    for shard, own in zip(shards, sums, strict=True):
        if shard.bytes < sum(next(rest).bytes for _ in own):
            raise ValueError(f"shards: {shard.file} has fewer bytes than its tensors")


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    name, count = Counter(names).most_common(1)[0] if (names := list(names)) else ("", 0)
    if count > 1:
        raise ValueError(f"{what}: {name} stands there twice")
