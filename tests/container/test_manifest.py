"""bitstack.json: written last and whole, read with every fault named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitstack.container.manifest import FORMAT, MANIFEST, read_manifest
from bitstack.errors import UserError
from damage import change_manifest, without_checksums

Folder = Callable[..., Path]


@pytest.fixture
def container(stacked: Folder, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(stacked("llama-tied", blocks=2), tmp_path / "container")


def test_read_is_what_was_written(container: Path, tmp_path: Path) -> None:
    manifest = read_manifest(container)
    manifest.write(tmp_path)
    assert (tmp_path / MANIFEST).read_bytes() == (container / MANIFEST).read_bytes()
    assert read_manifest(tmp_path) == manifest
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_reader_finds_there(container: Path, text_file: Path) -> None:
    data = json.loads((container / MANIFEST).read_text())
    assert data["format"] == FORMAT
    assert data["base_model"] == "llama-tied"
    assert data["dtype"] == "float32"
    assert data["recipe"]["blocks"] == 2
    assert data["text"]["source"] == text_file.name  # no path of the machine it was made on
    assert len(data["text"]["sha256"]) == 64
    assert (data["text"]["samples"], data["text"]["length"]) == (4, 32)
    assert set(data["versions"]) == {"bitstack", "torch", "transformers"}
    assert len(data["order"]) == sum(stack["levels"] - 1 for stack in data["stacks"])
    assert all(len(stack["errors"]) == stack["levels"] for stack in data["stacks"])
    assert all(len(shard["sha256"]) == 64 for shard in data["shards"])
    assert str(container.parents[2]) not in (container / MANIFEST).read_text()


def test_tensors_of_levels(container: Path) -> None:
    manifest = read_manifest(container)
    low = set(manifest.tensors([1] * len(manifest.stacks)))
    assert {d.name for d in manifest.dense if d.persistent} < low
    assert {f"{s.name}.{part}" for s in manifest.stacks for part in ("plane_1", "scale_1")} < low
    high = set(manifest.tensors([2] + [1] * (len(manifest.stacks) - 1)))
    name = manifest.stacks[0].name
    assert high - low == {f"{name}.plane_2", f"{name}.scale_2"}
    assert low - high == {f"{name}.scale_1"}


def test_no_container(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; make one with `compress-model run`"):
        read_manifest(tmp_path / "none")
    with pytest.raises(UserError, match=rf"no {MANIFEST}, so it is not a finished bitstack cont"):
        read_manifest(tmp_path)


def damage(text: str, change: str) -> str | bytes:
    data = json.loads(text)
    if change == "no field":
        del data["order"]
    elif change == "unknown field":
        data["extra"] = 1
    elif change == "wrong type":
        data["stacks"][0]["rows"] = "many"
    elif change == "strange format":
        data["format"] = "one"
    return json.dumps(data)


@pytest.mark.parametrize("change", ["no field", "unknown field", "wrong type", "strange format"])
def test_damaged_fields(container: Path, change: str) -> None:
    path = container / MANIFEST
    path.write_text(str(damage(path.read_text(), change)))
    with pytest.raises(UserError, match=rf"{MANIFEST}: damaged \(.*\); copy") as error:
        read_manifest(container)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"a": 1}'])
def test_damaged_files(container: Path, content: bytes) -> None:
    (container / MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match=rf"{MANIFEST}: damaged"):
        read_manifest(container)


def test_cut_off(container: Path) -> None:
    path = container / MANIFEST
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{MANIFEST}: damaged"):
        read_manifest(container)


@pytest.mark.parametrize(("chains", "base"), [((1,), 1), ((8,), 0), ((8,), 3), ((8,), 4)])
def test_format_2_named_the_end_of_the_lower_of_two_chains(
    stacked: Folder, tmp_path: Path, chains: tuple[int, ...], base: int
) -> None:
    """Where a stack was saved cut at 3 levels of 8, `base` 4 was kept."""
    made = stacked("llama-tied", blocks=3, chains=chains)
    container = shutil.copytree(made, tmp_path / "container")

    def older(data: Any) -> None:
        for stack in data["stacks"]:
            stack["base"] = base
            del stack["ends"]

    change_manifest(without_checksums(container, 2), older)
    old, new = read_manifest(container), read_manifest(made)
    assert [entry.spec for entry in old.stacks] == [entry.spec for entry in new.stacks]


@pytest.mark.parametrize("stack", [5, {"base": 4}, {"ends": [3, 1]}, {"ends": [2]}, {"base": "x"}])
def test_a_damaged_stack(container: Path, stack: object) -> None:
    path = container / MANIFEST
    data = json.loads(path.read_text())
    data["stacks"][0] = data["stacks"][0] | stack if isinstance(stack, dict) else stack
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=rf"{MANIFEST}: damaged"):
        read_manifest(container)


@pytest.mark.parametrize(("format", "unknown"), [(4, ["outliers"]), (3, ["outliers", "rotation"])])
def test_older_formats_knew_less(container: Path, format: int, unknown: list[str]) -> None:

    def older(data: Any) -> None:
        for stack in data["stacks"]:
            for field in unknown:
                del stack[field]

    change_manifest(without_checksums(container, format), older)
    specs = [entry.spec for entry in read_manifest(container).stacks]
    assert all(getattr(spec, field) == 0 for spec in specs for field in unknown)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rotation", -1), ("rotation", 2**63), ("rotation", "no number"), ("outliers", -1)],
)
def test_a_form_that_cannot_be(container: Path, field: str, value: object) -> None:
    data = json.loads((container / MANIFEST).read_text())
    data["stacks"][0][field] = value
    (container / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(UserError, match="damaged"):
        read_manifest(container)


def test_a_newer_format(container: Path) -> None:
    path = container / MANIFEST
    data = json.loads(path.read_text()) | {"format": FORMAT + 1, "something": "new"}
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=f"format {FORMAT + 1} was made by a newer bitstack"):
        read_manifest(container)
