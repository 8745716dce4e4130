"""The rooms of the house: folders import one way, downwards, and a newcomer finds them."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import bitstack

ROOT = Path(__file__).parents[1]
HOMES = {"bitstack": "bitstack", "metrics": "bitstack.metrics", "recipes": "bitstack.recipes"}
MOST_FLOORS, MOST_FILES = 12, 6

# From the ground up, as CONTRIBUTING.md draws them: a room imports only from those before it.
ROOMS = [
    "errors", "machine", "recipes", "recipe", "original", "kernels", "container", "calibration",
    "decompose", "nn", "ordering", "tuning", "compression", "live", "serving", "metrics.statistics",
    "metrics.loss", "metrics.tasks", "metrics.capacity", "metrics.gap", "metrics.density",
    "metrics.report", "hub", "demo", "", "commands", "cli",
]  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for folder, package in HOMES.items():
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = file
    return found


@cache
def imports() -> list[tuple[str, str]]:
    """(module, module it imports), lazy imports and those for type checkers included."""
    known = modules()
    return [
        (name, target)
        for name, file in known.items()
        for wanted in _names(ast.parse(file.read_text()))
        if (target := _module(wanted, known)) and target != name
    ]


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _module(name: str, known: dict[str, Path]) -> str | None:
    """The longest beginning of `name` that is a module."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def room(module: str) -> str:
    """The folder of a module, or the module itself where it stands beside the folders."""
    inner = module.removeprefix("bitstack").removeprefix(".")
    if modules()[module].name == "__init__.py":
        return inner
    above = inner.rpartition(".")[0]
    return above or inner


def arrows() -> set[tuple[str, str]]:
    """(room, room it imports from)."""
    pairs = {(room(a), room(b)) for a, b in imports()}
    return {(a, b) for a, b in pairs if a != b}


def test_every_room_has_its_place() -> None:
    found = {room(module) for module in modules()} - {"metrics", "recipes.tasks"}
    assert found == set(ROOMS)


def test_arrows_point_down_so_there_is_no_circle() -> None:
    place = {name: i for i, name in enumerate(ROOMS)}
    upward = [
        f"{a} -> {b}" for a, b in imports()
        if place.get(room(a), len(ROOMS)) < place.get(room(b), -1)
    ]  # fmt: skip
    assert not upward


def test_a_house_of_few_floors() -> None:
    below: dict[str, set[str]] = {}
    for a, b in arrows():
        below.setdefault(a, set()).add(b)

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(other) for other in below.get(name, ())), default=0)

    assert max(map(floor, ROOMS)) <= MOST_FLOORS


def test_few_files_stand_beside_the_folders() -> None:
    assert len(list((ROOT / "bitstack").glob("*.py"))) <= MOST_FILES


def test_no_module_hides_a_public_name() -> None:
    """`import bitstack.load` would put a module in the place of the function."""
    inside = {path.stem for path in (ROOT / "bitstack").iterdir()}
    assert not inside & set(bitstack.__all__)


@pytest.mark.parametrize(
    "folder",
    sorted({f.parent for f in modules().values()} - {ROOT / "recipes/tasks"}),
    ids=lambda f: str(f.relative_to(ROOT)),
)
def test_every_folder_says_what_it_knows_and_what_not(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert text
    assert len([part for part in text.replace("\n", " ").split(". ") if part.strip()]) >= 2


def test_every_folder_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        name.rpartition(".")[0] if file.name != "__init__.py" else name
        for name, file in modules().items()
    }
    assert set(project["tool"]["setuptools"]["packages"]) == packages - {"bitstack.recipes.tasks"}


def test_every_module_has_a_test() -> None:
    """A test file of its name, or one whose first lines say "Also covers `room.module`."."""
    heads = [
        ast.get_docstring(ast.parse(file.read_text())) or ""
        for file in (ROOT / "tests").rglob("test_*.py")
    ]
    covered = " ".join(head.partition("Also covers")[2] for head in heads)
    missing = []
    for name, file in modules().items():
        *folders, last = name.removeprefix("bitstack.").split(".")
        own = ROOT.joinpath("tests", *folders, f"test_{last}.py")
        named = f"`{name.removeprefix('bitstack.')}`" in covered
        if file.name != "__init__.py" and not own.is_file() and not named:
            missing.append(name)
    assert not missing
