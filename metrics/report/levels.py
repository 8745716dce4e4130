"""The map of levels: a row for every kind of matrix, a cell for every layer.

Experts of one layer share a cell. Which level a cell has at a budget is worked out by the page.
"""

from dataclasses import dataclass

from bitstack.container.manifest import Manifest


@dataclass(frozen=True)
class Cell:
    """Stacks of one layer and role; none where the layer has no such matrix."""

    layer: int | None
    stacks: list[int]  # indices of the manifest's stacks


@dataclass(frozen=True)
class MapRow:
    """One role over all layers; a role outside the layers has one cell."""

    role: str  # as the model calls it
    label: str  # its shortest unambiguous end
    note: str  # what else it stands for
    cells: list[Cell]

    @property
    def layered(self) -> bool:
        return self.cells[0].layer is not None


@dataclass(frozen=True)
class LevelMap:
    """All stacks of a container."""

    layers: list[int]
    rows: list[MapRow]
    top: int  # the highest level of any stack


def level_map(manifest: Manifest) -> LevelMap:
    """Rows in the order of the model, so that one reads it from input to output."""
    layers = sorted({e.layer for e in manifest.stacks if e.layer is not None})
    found: dict[str, dict[int | None, list[int]]] = {}
    for index, entry in enumerate(manifest.stacks):
        found.setdefault(entry.matrix.role, {}).setdefault(entry.layer, []).append(index)
    labels = short_names(list(found))
    rows = []
    for role, cells in found.items():
        wanted = [None] if None in cells else layers
        rows.append(
            MapRow(role, labels[role], _note(manifest, cells), [
                Cell(layer, cells.get(layer, [])) for layer in wanted
            ])
        )  # fmt: skip
    return LevelMap(layers, rows, max(entry.levels for entry in manifest.stacks))


def _note(manifest: Manifest, cells: dict[int | None, list[int]]) -> str:
    entries = [manifest.stacks[index] for stacks in cells.values() for index in stacks]
    tied = {entry.tied for entry in entries if entry.tied}
    experts = max(len(stacks) for stacks in cells.values())
    if tied:
        return f"also {', '.join(sorted(tied))}"
    return f"mean of {experts} experts" if experts > 1 else ""


def short_names(names: list[str]) -> dict[str, str]:
    """Each dotted name without the leading parts that it takes to tell it from the others."""
    found = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[start:]) for start in reversed(range(len(parts))))
        alone = (e for e in ends if sum(f".{n}".endswith(f".{e}") for n in names) == 1)
        found[name] = next(alone, name)
    return found
