"""A manifest whose entries do not fit one another is refused in one line, checksums or not.

Also covers `container.entries`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack import UserError
from bitstack.container.manifest import MANIFEST, read_manifest
from damage import change_manifest

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def containers(stacked: Folder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: stacked(name, blocks=2) for name in ("llama-gqa", "qwen3-moe", "gpt-2")}
    folder = tmp_path_factory.mktemp("consistency")
    return {name: shutil.copytree(path, folder / name) for name, path in made.items()}


def refused(folder: Path, change: Callable[[Any], Any]) -> str:
    """Why a changed manifest is refused; it is put back."""
    before = (folder / MANIFEST).read_text()
    change_manifest(folder, change)
    try:
        with pytest.raises(UserError) as error:
            read_manifest(folder)
    finally:
        (folder / MANIFEST).write_text(before)
    text = str(error.value)
    assert text.startswith(f"{folder / MANIFEST}: damaged (")
    assert "\n" not in text
    return text


def first(kind: str, data: Any) -> Any:
    return next(stack for stack in data["stacks"] if stack["kind"] == kind)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("levels", 9, "levels, rank, ends, rotation or outliers: not for codes"),
        ("levels", 0, "stacks.0.levels: Input should be greater"),
        ("levels", True, "stacks.0.levels: Input should be a valid integer"),
        ("levels", "2", r"stacks.0.levels: Input should be a valid integer \(given: '2'\)"),
        ("rows", -1, "stacks.0.rows"),
        ("rows", 10**30, "stacks.0.rows"),
        ("rank", 1, "not for codes"),
        ("outliers", 10**9, "outliers 1000000000: more than"),
        ("kind", "other", "stacks.0.kind"),
        ("name", "../x", "stacks.0.name"),
        ("name", "other", "name, module or index is not that of its matrix"),
        ("module", "other", "name, module or index is not that of its matrix"),
        ("expert", 0, "name, module or index is not that of its matrix"),
        ("first_row", 0, "name, module or index is not that of its matrix"),
        ("transposed", True, "transposed is not that of a embedding"),
        ("layer", 7, "layer 7 is not in its name"),
        ("format", "signs", "levels, rank, ends, rotation or outliers: not for signs"),
    ],
)
def test_stacks(containers: dict[str, Path], field: str, value: object, reason: str) -> None:
    import re

    said = refused(containers["llama-gqa"], lambda d: d["stacks"][0].update({field: value}))
    assert re.search(reason, said), said


def test_experts_are_all_there_and_in_order(containers: dict[str, Path]) -> None:
    folder = containers["qwen3-moe"]

    def swapped(data: Any) -> None:
        at = data["stacks"].index(first("expert", data))
        data["stacks"][at : at + 2] = data["stacks"][at : at + 2][::-1]

    assert "is not that of its matrix" in refused(folder, swapped)
    assert "has other rows than" in refused(
        folder, lambda d: d["stacks"][d["stacks"].index(first("expert", d)) + 1].update(rows=3)
    )
    assert "is tied to no LM head" in refused(folder, lambda d: first("expert", d).update(tied="x"))
    transposed = lambda d: first("conv1d", d).update(transposed=False)  # noqa: E731
    assert "transposed is not that of a conv1d" in refused(containers["gpt-2"], transposed)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["order"].append(0), "order: raises"),
        (lambda d: d["order"].append(-1), "order: -1 is none of the"),
        (lambda d: d["order"].append(10**6), "order: 1000000 is none of the"),
        (lambda d: d["order"].pop() and None, "checksums for each of"),
        (lambda d: d["stacks"].append(d["stacks"][0]), "stands there twice"),
        (lambda d: d["dense"].append(d["dense"][0]), "stands there twice"),
        (lambda d: d["dense"][0].update(bytes=-(10**9)), "dense.0.bytes"),
        (lambda d: d["dense"][0].update(bytes=5), "bytes 5:"),
        (lambda d: d["dense"][0].update(dtype="float8"), "dense.0.dtype"),
        (lambda d: d["shards"].append(d["shards"][0]), "stands there twice"),
        (lambda d: d["shards"][0].update(bytes=9), "fewer bytes than the"),
        (lambda d: d["shards"][0].update(file="../x.safetensors"), "shards.0.file"),
        (lambda d: d["shards"][0].update(checksums=None), "checksums for each of"),
        (lambda d: d["shards"][0]["checksums"].pop() and None, "checksums for each of"),
        (lambda d: d.update(stacks=[]), "stacks: there are none"),
        (lambda d: d.update(dtype="load"), "dtype: Input should be"),
        (lambda d: d.update(base_model="\x1b[31m"), "base_model"),
        (lambda d: d.update(original_bytes=0), "original_bytes"),
    ],
)
def test_the_whole(containers: dict[str, Path], change: Any, reason: str) -> None:
    assert reason in refused(containers["llama-gqa"], change)


def test_buffers_that_nothing_stores(containers: dict[str, Path]) -> None:
    """They count into budgets, and are memory."""

    def huge(data: Any) -> None:
        made = next(entry for entry in data["dense"] if not entry["persistent"])
        made.update(shape=[10**9], bytes=4 * 10**9)

    assert "buffers that are not stored have 4" in refused(containers["llama-gqa"], huge)


def test_what_was_changed_after_it_was_written(containers: dict[str, Path]) -> None:
    folder = containers["llama-gqa"]
    before = (folder / MANIFEST).read_text()
    change_manifest(folder, lambda d: d["stacks"][0].update(rotation=5), signed=False)
    with pytest.raises(UserError, match="its checksum is another: it was changed after"):
        read_manifest(folder)
    (folder / MANIFEST).write_text(before)


PATHS = st.sampled_from(
    [("stacks", 0), ("stacks", 1), ("dense", 0), ("shards", 0), ("recipe",), ()]
)
JUNK = st.none() | st.integers(-(10**20), 10**20) | st.text(max_size=8) | st.lists(st.integers())


@settings(max_examples=60, deadline=None)
@given(PATHS, st.data(), JUNK)
def test_any_field_of_any_value_is_read_or_refused(
    containers: dict[str, Path], path: tuple[Any, ...], data: st.DataObject, value: Any
) -> None:
    folder = containers["llama-gqa"]
    before = (folder / MANIFEST).read_text()

    def change(held: Any) -> None:
        for key in path:
            held = held[key]
        held[data.draw(st.sampled_from(sorted(held)))] = value

    change_manifest(folder, change)
    said = ""
    try:
        manifest = read_manifest(folder)
        assert manifest.budgets.total_bytes >= manifest.budgets.floor_bytes > 0
    except UserError as error:
        said = str(error)
    finally:
        (folder / MANIFEST).write_text(before)
    assert "\n" not in said
