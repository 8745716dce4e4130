"""Reads and checks the header of a safetensors file before any tensor is made.

The header is its length in 8 bytes, little-endian, then JSON of dtype, shape and the offsets of
every tensor's data behind it. The data must lie without gap or overlap and end with the file. Does
not read the data; see `container.reading`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import FileIO
from typing import Any

from bitstack.container.blocks import TensorSpec
from bitstack.container.dtypes import STORED
from bitstack.machine.json_file import parse_json
from bitstack.machine.plain_files import read_into

_LARGEST = 100_000_000  # bytes; the format's own limit


@dataclass(frozen=True)
class Place:
    """Where the data of one tensor begins in its file, and what it is."""

    start: int  # bytes from the beginning of the file
    spec: TensorSpec


def read_header(
    file: FileIO, size: int, specs: Mapping[str, TensorSpec], needed: Collection[str], exact: bool
) -> dict[str, Place]:
    """Returns the places of a file's tensors by name.

    Args:
        file: Open at its beginning.
        size: Bytes of the file.
        specs: What each tensor of the container is; names are those within the container.
        needed: Names of the tensors that the file must hold.
        exact: Whether it must hold no other; otherwise any of `specs`.

    Raises:
        ValueError: The file does not begin with a header, or with that of another content.
        OSError: It cannot be read.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > _LARGEST:
        raise ValueError("no safetensors header")
    if length > size - 8:
        raise ValueError("the file ends within the header")
    text = bytearray(length)
    read_into(file, memoryview(text), "the header")
    header = parse_json(bytes(text))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise ValueError("its __metadata__ is no object of strings")
    for name in needed:
        if name not in header:
            raise ValueError(f"its header lacks {name}")
    for name in header:
        if name not in (needed if exact else specs):
            raise ValueError(f"its header names {name[:200]}, which is not of this file")
    places = {name: _place(name, entry, specs[name]) for name, entry in header.items()}
    _check_layout(places, size - 8 - length)
    return {name: Place(8 + length + place.start, place.spec) for name, place in places.items()}


def _place(name: str, entry: Any, spec: TensorSpec) -> Place:
    """Returns the place of a tensor, counted from the first byte of data."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: its entry is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    whole = all(_counts(part) for part in (shape, offsets))
    if not isinstance(dtype, str) or dtype not in STORED or not whole or len(offsets) != 2:
        raise ValueError(f"{name}: its dtype, shape or data_offsets is none")
    if (STORED[dtype], tuple(shape)) != (spec.dtype, spec.shape):
        raise ValueError(
            f"{name} is {shape} of {dtype}, but must be {list(spec.shape)} of {spec.dtype}"
        )
    begin, end = offsets
    if end - begin != spec.bytes:
        raise ValueError(f"{name} has {end - begin} bytes, which is not {shape} of {spec.dtype}")
    return Place(begin, spec)


def _counts(value: Any) -> bool:
    """Tells whether a value is a list of whole numbers from 0 on; True and False are none."""
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def _check_layout(places: Mapping[str, Place], size: int) -> None:
    """Checks that the data of all tensors follow one another and end with the file."""
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].spec.bytes)):
        if place.start != end:
            raise ValueError(f"{name} begins at byte {place.start} of the data, not at {end}")
        end += place.spec.bytes
    if end != size:
        raise ValueError(f"its tensors have {end} bytes, but {size} follow the header")
