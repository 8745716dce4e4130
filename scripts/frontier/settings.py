"""What `bench_frontier.py` measures: every setting, with the rows that it is to give.

Sizes at which ours and the mix of llama.cpp are measured follow from the rows of the others, so
they come last. Does not measure; see `peers` and `frontier.ours`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from peers import METHODS, family
from peers.bench import Bench, Row
from peers.containers import LAST, in_bytes
from peers.limits import EIGHT, SAME, Limits
from peers.loops import Done

from frontier import ours
from frontier.cost import MeteredBench

ORIGINAL, LLAMA, MIX = ("original", "16 bits"), "llama.cpp" + SAME, "llama.cpp-mix"
TYPES = ("IQ2_S", "Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M")
WIDTHS = (2, 3, 4)
GROUP = 64
# In the order of measuring: the quickest first, ours at the sizes of all others.
FAMILIES = (
    "llama.cpp", "llama.cpp-mix", "hqq", "gptq", "matgptq", "auto-round-light", "auto-round",
    "bitstack",
)  # fmt: skip
# Ours are measured at exactly the bytes of these methods, and interpolated at those of others.
_EXACT = ("llama.cpp", "llama.cpp-mix", "gptq", "matgptq", "auto-round")


@dataclass(frozen=True)
class Setting:
    """What one process measures."""

    name: str
    family: str  # of `peers.METHODS`; "original" for the model itself
    rows: tuple[tuple[str, str], ...]  # (method, setting) of the rows it is to give
    measure: Callable[[MeteredBench, Done], Iterable[Row]]
    limits: Limits = field(default_factory=Limits)

    def lacks(self, done: Done) -> bool:
        """Returns whether a row is missing."""
        return not all(done(*row) for row in self.rows)


def settings(rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[Setting]:
    """Yields every setting in the order of measuring.

    Args:
        rows: Those that are there.
        sizes: Bytes of the whole model in each of TYPES, as far as they are known.
    """
    yield Setting(" ".join(ORIGINAL), ORIGINAL[0], (ORIGINAL,), _original)
    for name in TYPES:
        yield _peer(LLAMA, name, limits=Limits(types=(name,)))
    for size in sizes:
        yield _peer(MIX, in_bytes(size))
    for bits in WIDTHS:
        for axis in (0, 1):
            yield _grouped(f"hqq g{GROUP} axis {axis}", bits, ("", EIGHT, SAME))
    for method in (f"gptq g{GROUP}", *_parents(), *_tuned()):
        if family(method) == "matgptq":
            yield _peer(method, *(f"{b} bits" for b in (*WIDTHS, 8)), endings=("", EIGHT))
        else:
            yield from (_grouped(method, bits, ("", EIGHT)) for bits in WIDTHS)
    yield from (_own(run, rows, sizes) for run in ours.RUNS)


def _parents() -> tuple[str, str]:
    return f"matgptq g{GROUP}", f"matgptq g{GROUP}, from 2 bits"


def _tuned() -> tuple[str, str]:
    return f"auto-round-light g{GROUP}", f"auto-round g{GROUP}"


def _original(bench: Bench, done: Done) -> Iterator[Row]:
    size = bench.dense_bytes + 2 * bench.linear_weights
    yield bench.scored(*ORIGINAL, "both", 16.0, size, bench.model, 0.0)


def _grouped(method: str, bits: int, endings: Sequence[str]) -> Setting:
    limits = Limits(groups=(GROUP,), bits={family(method): (bits,)}, embeddings=True)
    return _peer(method, f"{bits} bits", endings=endings, limits=limits)


def _peer(
    method: str, *names: str, endings: Sequence[str] = ("",), limits: Limits | None = None
) -> Setting:
    """Returns the setting of a peer's method at its settings `names`."""
    rows = tuple((method + ending, name) for name in names for ending in endings)

    def measure(bench: MeteredBench, done: Done) -> Iterable[Row]:
        known = METHODS[family(method)]
        return known.rows(bench, lambda *row: row not in rows or done(*row))

    limits = limits or Limits(groups=(GROUP,), embeddings=True)
    return Setting(f"{method} {names[0]}" if len(names) == 1 else method, family(method), rows,
                   measure, limits)  # fmt: skip


def _own(run: ours.Run, rows: Sequence[Row], sizes: Sequence[int]) -> Setting:
    """Returns the setting of a run of ours; its rows are only those within its container."""
    wanted = own_sizes(run.method, rows, sizes)
    finished = any((row.method, row.setting) == (run.method, LAST) for row in rows)
    names = [*((LAST,) if finished else ours.SETTINGS), *map(in_bytes, wanted)]
    return Setting(
        run.method, "bitstack", tuple((run.method, name) for name in names),
        partial(_measure_own, run),
    )  # fmt: skip


def _measure_own(run: ours.Run, bench: MeteredBench, done: Done) -> Iterator[Row]:
    return ours.rows(bench, run, done)


def own_sizes(method: str, rows: Sequence[Row], sizes: Sequence[int]) -> list[int]:
    """Returns the bytes of the whole model at which a run of ours lacks a row.

    Of a finished run, only those within its rows.
    """
    own = [row for row in rows if row.method == method]
    wanted = {*sizes, *(r.resident_bytes for r in rows if family(r.method) in _EXACT)}
    if any(row.setting == LAST for row in own):
        reached = [row.resident_bytes for row in own]
        wanted = {size for size in wanted if min(reached) <= size < max(reached)}
    there = {row.setting for row in own}
    return sorted(size for size in wanted if in_bytes(size) not in there)


def type_sizes(*groups: Iterable[Row]) -> list[int]:
    """Returns the bytes of TYPES in the first rows that tell them, from small to large."""
    known: dict[str, int] = {}
    for row in (row for group in groups for row in group if row.method == LLAMA):
        if row.setting in TYPES:
            known.setdefault(row.setting, row.resident_bytes)
    return sorted(known.values())
