"""Arranges the map of levels: a row for every kind of matrix, a cell for every layer.

The experts of one layer share a cell. Does not say which level a cell has at a budget; see
`page.js`.
"""

from dataclasses import dataclass

from bitstack.container.manifest import Manifest


@dataclass(frozen=True)
class Cell:
    """The stacks of one kind of matrix in one layer; none where the layer has no such matrix."""

    layer: int | None  # None outside the layers
    stacks: list[int]  # indices of the manifest's stacks


@dataclass(frozen=True)
class MapRow:
    """One kind of matrix over all layers; one outside the layers has one cell."""

    role: str  # the model's name of this kind of matrix
    label: str  # the shortest end of it that no other row has
    note: str  # for example that it is also the LM head
    cells: list[Cell]

    @property
    def layered(self) -> bool:
        """Whether the row has a cell per layer."""
        return self.cells[0].layer is not None


@dataclass(frozen=True)
class LevelMap:
    """The map of all stacks of a container."""

    layers: list[int]
    rows: list[MapRow]
    top: int  # the highest level of any stack


def level_map(manifest: Manifest) -> LevelMap:
    """Returns the map, its rows in the order of the model, from input to output."""
    layers = sorted({e.layer for e in manifest.stacks if e.layer is not None})
    roles: dict[str, dict[int | None, list[int]]] = {}
    for index, entry in enumerate(manifest.stacks):
        roles.setdefault(entry.matrix.role, {}).setdefault(entry.layer, []).append(index)
    labels = short_names(list(roles))
    rows = []
    for role, cells in roles.items():
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
    """Shortens dotted names to their last parts, as few as tell each name from the others."""
    shortest = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[start:]) for start in reversed(range(len(parts))))
        alone = (e for e in ends if sum(f".{n}".endswith(f".{e}") for n in names) == 1)
        shortest[name] = next(alone, name)
    return shortest
