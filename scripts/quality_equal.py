"""Compares our rows with those of the peers at equal bytes and bits, by the KL from the original.

For the models of TARGETS. Bytes are those of the whole model; bits are those of a linear weight,
with the embedding dense on both sides. Does not measure; see `peers`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from peers.bench import Row
from peers.containers import LAST, in_bytes
from peers.limits import EIGHT, SAME
from quality_curves import Curves, interpolate, size_of

from bitstack.commands.tables import console, table

LINEAR = ", linear only"  # ends the names of our methods in the view `linear`
_WIDTHS = ("2 bits", "3 bits", "4 bits")
_TYPES = ("IQ2_S", "Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M")


@dataclass(frozen=True)
class Target:
    """The KL of `ours` is to be at most `most` times that of `theirs`, at each of `settings`."""

    ours: str
    theirs: str
    settings: tuple[str, ...]
    most: float = 1.0


TARGETS: dict[str, tuple[Target, ...]] = {
    "SmolLM2": (
        Target("bitstack fast", "gptq g64", _WIDTHS),
        Target("bitstack fast", "llama.cpp, embedding too", _TYPES, 0.5),
        *(
            Target("bitstack fast, no text", theirs, (*_WIDTHS, "8 bits"))
            for theirs in ("rtn g64", "hqq g64 axis 0", "hqq g64 axis 1")
        ),
        *(
            Target(ours, theirs, _WIDTHS, 0.7)
            for ours in ("bitstack fast", "bitstack default 60m")
            for theirs in ("auto-round-light g64", "auto-round g64")
        ),
    ),
}
NOTES = {
    "SmolLM2": "Note: the weights of this model lie on the grid of Q4_1 in groups of 32. Formats "
    "with that grid (Q4_1, Q5_1, Q8_0, rounding in groups of 32 with a minimum) prove nothing at 4 "
    "bits and above. llama.cpp takes one where blocks of 256 do not divide a matrix: Q8_0 for the "
    "embedding and for what would be Q6_K, Q5_1 for what would be Q5_K.",
}


def sizes(rows: Sequence[Row], model: str, method: str) -> list[int]:
    """Returns the bytes of the whole model at which a method of ours lacks a row for its targets.

    Of a finished method, only those within its rows.
    """
    own = [row for row in rows if row.method == method]
    targets = [t for t in TARGETS.get(model, ()) if t.ours == method]
    wanted = {r.resident_bytes for t in targets for r in rows if _belongs(r, t)}
    if any(row.setting == LAST for row in own):
        reached = [row.resident_bytes for row in own]
        wanted = {size for size in wanted if min(reached) <= size < max(reached)}
    return sorted(wanted - {s for s in wanted for row in own if row.setting == in_bytes(s)})


def _belongs(row: Row, target: Target) -> bool:
    names = [target.theirs + ending for ending in ("", EIGHT, SAME)]
    return row.method in names and row.setting in target.settings


def at(curves: Curves, method: str, size: float, view: str) -> tuple[float, str] | None:
    """Returns our KL at a size, and how it is known: "=" measured, "~" interpolated, "<" smaller.

    Measured is the largest model of at most that size. "<": all of the container is smaller.
    """
    own = [row for row in curves.of(method, view) if row.kl_per_token is not None]
    exact = [row for row in own if view == "whole" and row.setting == in_bytes(int(size))]
    top = [row for row in own if row.setting == LAST and size_of(row, view) <= size]
    for rows, sign in ((exact, "="), (top, "<")):
        if rows and (kl := rows[0].kl_per_token) is not None:
            return kl, sign
    between = interpolate(curves.divergences(method, view), size)
    return None if between is None else (between, "~")


def report(curves: Curves, model: str) -> None:
    """Prints the tables and the targets of a model."""
    to = console()
    to.print("At equal bytes of the whole model, KL from the original:")
    to.print(equal_table(curves, "whole"))
    to.print("At equal bits of a linear weight, embedding dense, KL from the original:")
    to.print(equal_table(curves, "linear"))
    to.print(
        "Ours: = measured at those bytes, ~ interpolated, < all of our container, which is "
        "smaller. Ratio: ours over theirs.",
        soft_wrap=True,
    )
    to.print("\n".join(compared(curves, model)), soft_wrap=True)
    if model in NOTES:
        to.print(NOTES[model], soft_wrap=True)


def equal_table(curves: Curves, view: str) -> Any:
    """Returns the table of the peers with groups of 64, and of llama.cpp, beside ours."""
    ours = _own_methods(curves, view)
    size = "bytes" if view == "whole" else "bits"
    columns = ["method", "setting", size, "KL"]
    for name in ours:
        columns += [name.removeprefix("bitstack ").removesuffix(LINEAR), "ratio"]
    grid = table(columns, left=columns[:2])
    for row in sorted(_peers(curves, view), key=lambda r: size_of(r, view)):
        own = [at(curves, name, size_of(row, view), view) for name in ours]
        numbers = [cell for one in own for cell in cells(row, one)]
        place = str(row.resident_bytes) if view == "whole" else f"{row.bits_per_weight:.3f}"
        grid.add_row(row.method, row.setting, place, _number(row.kl_per_token), *numbers)
    return grid


def _own_methods(curves: Curves, view: str) -> list[str]:
    names = [m for m in curves.methods(view) if m.startswith("bitstack")]
    return [n for n in names if n.endswith(LINEAR) == (view == "linear")]


def _peers(curves: Curves, view: str) -> list[Row]:
    names = [m for m in curves.methods(view) if not m.startswith(("bitstack", "paper"))]
    return [
        row
        for name in names
        if "g64" in name or name.startswith("llama.cpp")
        for row in curves.of(name, view)
    ]


def cells(row: Row, ours: tuple[float, str] | None) -> tuple[str, str]:
    """Returns our KL with its sign, and its ratio to that of a peer's row."""
    ratio = _ratio(row, ours)
    own = "-" if ours is None else f"{ours[1]}{_number(ours[0])}"
    return own, "-" if ratio is None else f"{ratio:.2f}"


def compared(curves: Curves, model: str) -> Iterator[str]:
    """Yields the lines of all targets of a model."""
    for target in TARGETS[model]:
        yield from lines(curves, target)


def lines(
    curves: Curves, target: Target, views: Sequence[str] = ("whole", "linear")
) -> Iterator[str]:
    """Yields a line for a target at each setting: met or missed, and by what factor."""
    rows = [r for r in curves.rows if _belongs(r, target)]
    places = [(r.setting, r.method, "whole", r) for r in rows]
    places += [(r.setting, r.method, "linear", r) for r in rows if r.view == "both"]
    yield f"{target.ours}, KL over that of {target.theirs}, at most {target.most:g}:"
    for setting in target.settings:
        found = [place[1:] for place in places if place[0] == setting and place[2] in views]
        yield from (_verdict(curves, target, *place) for place in found)
        if not found:
            yield f"  {setting}: not measured"


def _verdict(curves: Curves, target: Target, method: str, view: str, row: Row) -> str:
    name = target.ours + (LINEAR if view == "linear" else "")
    size = size_of(row, view)
    where = f"{row.resident_bytes} bytes" if view == "whole" else f"{size:.3f} bits, linear only"
    what = f"  {row.setting}{method.removeprefix(target.theirs)}, {where}"
    ratio = _ratio(row, at(curves, name, size, view))
    if ratio is None:
        return f"{what}: not measured"
    factor = ratio / target.most
    verdict = "met" if factor <= 1 else "MISSED"
    return f"{what}: {ratio:.3f}, {verdict} by a factor of {max(factor, 1 / factor):.2f}"


def _ratio(row: Row, ours: tuple[float, str] | None) -> float | None:
    return ours[0] / row.kl_per_token if ours and row.kl_per_token else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
