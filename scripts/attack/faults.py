"""Accidents: flipped bits, files that are too short or too long, files of another container.

Each is a function that damages a copy of a container, with a name of what it damages. Does not
renew checksums: nobody meant it. What somebody means is in `attack.hostile`.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attack.layout import Layout

TENSORS = {"planes": 60, "scales": 60, "dense": 55}
FILES = {"header": 80, "manifest": 60, "config": 45, "index": 40, "recipe": 30, "tokenizer": 32}
CUTS = 110


@dataclass(frozen=True)
class Fault:
    """One way to damage a container."""

    kind: str  # row of the table
    named: tuple[str, ...]  # what the error is to name: the file, or one of its tensors
    damage: Callable[[Path], None]
    text: str = ""  # for the list of what went wrong


def flips(layout: Layout, rng: random.Random) -> Iterator[Fault]:
    """Single bits in tensors, and in everything else."""
    for part, count in TENSORS.items():
        for _ in range(count):
            name = rng.choice(layout.tensors[part])
            file, first, last = layout.places[name]
            bit = 8 * rng.randint(first, last) + rng.randrange(8)
            yield Fault(f"bit flips in {part}", (file, name), _flip(file, bit), f"{name} bit {bit}")
    for part, count in FILES.items():
        for _ in range(count):
            file, size = rng.choice(layout.files[part])
            bit = rng.randrange(8 * size)
            yield Fault(f"bit flips in {part}", (file,), _flip(file, bit), f"{file} bit {bit}")


def cuts(layout: Layout, rng: random.Random) -> Iterator[Fault]:
    """Files that end too early, or go on."""
    names = sorted({file for part in layout.files.values() for file, _ in part})
    for i in range(CUTS):
        file = names[i % len(names)]
        size = (layout.folder / file).stat().st_size
        if i % 2:
            more = rng.randbytes(rng.choice([1, 8, 1000])) if i % 4 == 1 else bytes(64)
            yield Fault("extended files", (file,), _extend(file, more), f"{file} +{len(more)}")
        else:
            left = rng.choice([0, 1, 8, size // 2, size - 1, rng.randrange(size)])
            yield Fault("truncated files", (file,), _cut(file, left), f"{file} cut at {left}")


def swaps(layout: Layout, other: Path) -> Iterator[Fault]:
    """Files of tensors of another container of the same shapes, or in each other's place."""
    files = [file for file, _ in layout.files["header"]]
    for file in files:
        yield Fault("shards of another container", (file,), _take(other, [file]), file)
    yield Fault("shards of another container", tuple(files), _take(other, files), "all")
    yield Fault("shards of another container", tuple(files), _exchange(files[0], files[-1]), "two")
    for file in ("config.json", "bitstack.json"):
        named = (file, *files)
        yield Fault("shards of another container", named, _take(other, [file]), file)


def _flip(file: str, bit: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        (folder / file).write_bytes(data)

    return damage


def _cut(file: str, left: int) -> Callable[[Path], None]:
    return lambda folder: _write(folder / file, (folder / file).read_bytes()[:left])


def _extend(file: str, more: bytes) -> Callable[[Path], None]:
    return lambda folder: _write(folder / file, (folder / file).read_bytes() + more)


def _take(other: Path, files: list[str]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for file in files:
            shutil.copyfile(other / file, folder / file)

    return damage


def _exchange(one: str, two: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        first = (folder / one).read_bytes()
        shutil.copyfile(folder / two, folder / one)
        (folder / two).write_bytes(first)

    return damage


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
