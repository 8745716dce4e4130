"""The files of a container: exact bytes, universal order, prefixes, damage."""

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bitstack import load
from bitstack.container import shards
from bitstack.container.blocks import StackSpec, tensor_order
from bitstack.container.journal import Journal
from bitstack.container.manifest import INDEX, MANIFEST, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.container.shards import tensor_sum, write_shards
from bitstack.container.verification import check_files
from bitstack.errors import UserError
from bitstack.nn import Stack
from damage import without_checksums

Folder = Callable[..., Path]


def journal(folder: Path, tensors: dict[str, torch.Tensor]) -> Journal:
    made = Journal(folder, "run")
    made.put("all", tensors, {})
    return made


# A matrix of 2 x 11 at one plane: u = (1, 2), v = 1, 1/2, 1/4 and eight ones, T = (-1, 3).
PLANE = torch.tensor([[0b00001001, 0b00000100], [0b10000000, 0b00000001]], dtype=torch.uint8)
SCALE = torch.tensor([1, 2, 1, 0.5, 0.25, 1, 1, 1, 1, 1, 1, 1, 1, -1, 3], dtype=torch.float16)
MATRIX = [
    [3, -0.5, -0.25, 3, -1, -1, -1, -1, -1, -1, 3],
    [-2, -1, -0.5, -2, -2, -2, -2, 6, 6, -2, -2],
]


def test_golden_bytes_of_a_coded_stack(tmp_path: Path) -> None:
    """Format 1 to the byte: bit c of a row is bit c % 8 of its byte c // 8; the scale set is
    u, v, T as little-endian fp16; one tensor a block."""
    made = journal(tmp_path, {"m.plane_1": PLANE, "m.scale_1": SCALE})
    (entry,) = write_shards(tmp_path, made, ["m.plane_1", "m.scale_1"], 34)
    assert entry.file == "model.bitstack-00001-of-00001.safetensors"
    header = (
        b'{"__metadata__":{"format":"pt"},'
        b'"m.scale_1":{"dtype":"F16","shape":[15],"data_offsets":[0,30]},'
        b'"m.plane_1":{"dtype":"U8","shape":[2,2],"data_offsets":[30,34]}}'
    )
    header += b" " * (-len(header) % 8)
    one, half, quarter, two, minus, three = (
        struct.pack("<H", bits) for bits in (0x3C00, 0x3800, 0x3400, 0x4000, 0xBC00, 0x4200)
    )
    scale = one + two + one + half + quarter + 8 * one + minus + three
    golden = struct.pack("<Q", len(header)) + header + scale + bytes([0x09, 0x04, 0x80, 0x01])
    assert (tmp_path / entry.file).read_bytes() == golden
    assert entry.bytes == len(golden)


def test_what_the_golden_bytes_mean() -> None:
    stack = Stack(StackSpec("codes", 2, 11, 1))
    stack.set_level(1, {"plane_1": PLANE, "scale_1": SCALE}.__getitem__)
    assert stack.dequantize().tolist() == MATRIX


def test_golden_bytes_of_a_published_block() -> None:
    """Row-major, most significant bit first, +1 as 1 (arXiv 2410.23918)."""
    tensors = {
        "plane_1": torch.tensor([[0b10010000, 0b00100000], [0b00000001, 0b10000000]]).byte(),
        "left_1": torch.tensor([[1.0], [2.0]]).half(),
        "right_1": torch.tensor([[1, 0.5, 0.25, *[1] * 8]]).half(),
    }
    stack = Stack(StackSpec("signs", 2, 11, 1, 1))
    stack.set_level(1, tensors.__getitem__)
    positive = [[0, 3, 10], [7, 8]]
    assert stack.dequantize().tolist() == [
        [(1 if c in row else -1) * x * (i + 1) for c, x in enumerate([1, 0.5, 0.25, *[1] * 8])]
        for i, row in enumerate(positive)
    ]


def test_universal_order() -> None:
    specs = {"a": StackSpec("codes", 2, 8, 3), "b": StackSpec("signs", 2, 8, 2, 1)}
    assert list(tensor_order(["norm"], specs, [1, 0, 0])) == [
        *("norm", "a.plane_1", "a.scale_1", "b.plane_1", "b.left_1", "b.right_1"),
        *("b.plane_2", "b.left_2", "b.right_2"),
        *("a.plane_2", "a.scale_2", "a.plane_3", "a.scale_3"),
    ]


@pytest.fixture
def tiny_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few kB, so that pico containers have many."""
    monkeypatch.setattr(shards, "SMALLEST", 1 << 12)


@pytest.mark.usefixtures("tiny_shards")
def test_shards_are_cut_in_order(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((100 * (i + 1),), i, dtype=torch.uint8) for i in range(30)}
    names = sorted(tensors, key=lambda n: int(n[1:]) * 7 % 30)
    total = sum(t.nbytes for t in tensors.values())
    entries = write_shards(tmp_path, journal(tmp_path, tensors), names, total)
    assert [e.file for e in entries] == [
        f"model.bitstack-{i:05d}-of-{len(entries):05d}.safetensors"
        for i in range(1, len(entries) + 1)
    ]
    places = [
        place
        for entry in entries
        for place in sorted(names.index(name) for name in load_file(tmp_path / entry.file))
    ]
    assert places == list(range(30))  # shard after shard, nothing out of order
    payload = [sum(t.nbytes for t in load_file(tmp_path / e.file).values()) for e in entries]
    assert max(payload) <= max(4096, max(t.nbytes for t in tensors.values()))
    assert len(entries) <= math.ceil(total / 4096) * 2
    sums = [one for entry in entries for one in entry.checksums or ()]
    assert sums == [tensor_sum(tensors[name]) for name in names]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == total
    assert not list(tmp_path.glob(".part*"))


@pytest.fixture(scope="module")
def many(stacked: Folder) -> Path:
    """A container of many shards, to be read only."""
    patch = pytest.MonkeyPatch()
    patch.setattr(shards, "SMALLEST", 1 << 12)
    container = stacked("qwen3", blocks=4, num_samples=5)
    patch.undo()
    return container


@pytest.fixture
def container(many: Path, tmp_path: Path) -> Path:
    return shutil.copytree(many, tmp_path / "container")


def test_a_prefix_of_the_shards_is_a_smaller_model(many: Path, container: Path) -> None:
    """Shards are deleted from the last; whatever fits what is left loads as from the whole."""
    manifest = read_manifest(many)
    assert len(manifest.shards) >= 6
    ids = torch.arange(20).unsqueeze(0)
    smaller = 0
    for shard in reversed(manifest.shards[1:]):
        (container / shard.file).unlink()
        budget = reached(container)
        if budget < manifest.budgets.floor_bytes:
            with pytest.raises(UserError, match=r"model\.bitstack-\S+: missing"):
                load(container, manifest.budgets.floor_bytes)
            continue
        smaller += 1
        model = load(container, budget)
        assert model.bitstack.levels == manifest.budgets.levels(budget)[0]
        with torch.no_grad():
            assert torch.equal(model(ids).logits, load(many, budget)(ids).logits)
    assert smaller >= 3


def reached(container: Path) -> int:
    """Bytes of the longest prefix of the order whose tensors are in the files that are left."""
    manifest = read_manifest(container)
    where = json.loads((container / INDEX).read_text())["weight_map"]
    levels, best = [1] * len(manifest.stacks), 0
    for stack in [None, *manifest.order]:
        if stack is not None:
            levels[stack] += 1
        if not all((container / where[name]).exists() for name in manifest.tensors(levels)):
            break
        best = manifest.budgets.resident_bytes(levels)
    return best


def test_the_first_missing_shard_is_named(container: Path) -> None:
    files = [shard.file for shard in read_manifest(container).shards]
    for file in files[2:]:
        (container / file).unlink()
    with pytest.raises(UserError, match=f"{files[2]}: missing, .* give a smaller budget"):
        load(container)


def test_a_truncated_shard(container: Path) -> None:
    path = container / read_manifest(container).shards[0].file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{path.name}: \d+ bytes, but \d+ bytes are needed"):
        load(container)


def test_a_shard_with_a_broken_head(container: Path) -> None:
    path = container / read_manifest(container).shards[0].file
    data = bytearray(path.read_bytes())
    data[9] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{path.name}: cannot be read"):
        load(container)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"weight_map": 3}'])
def test_a_missing_or_damaged_index(container: Path, content: str | None) -> None:
    """Only containers without checksums need one."""
    (container / INDEX).unlink()
    if content is not None:
        (container / INDEX).write_text(content)
    assert load(container)
    without_checksums(container)
    with pytest.raises(UserError, match=rf"{INDEX}: (missing or )?damaged"):
        load(container)


def change_index(container: Path, change: dict[str, str | None]) -> None:
    index = json.loads((container / INDEX).read_text())
    where = index["weight_map"] | change
    index["weight_map"] = {name: file for name, file in where.items() if file is not None}
    (container / INDEX).write_text(json.dumps(index))


def test_a_tensor_that_no_shard_holds(container: Path) -> None:
    without_checksums(container)
    change_index(container, {"model.norm.weight": None})
    with pytest.raises(UserError, match=r"no tensor model\.norm\.weight"):
        load(container)


@pytest.mark.parametrize("file", ["../other.safetensors", "/etc/passwd", "other.safetensors", ""])
def test_an_index_names_files_of_the_manifest_only(container: Path, file: str) -> None:
    without_checksums(container)
    change_index(container, {"model.norm.weight": file})
    with pytest.raises(UserError, match=f"{INDEX}: names .* which the manifest does not"):
        load(container)


def test_verify_finds_one_flipped_bit(container: Path) -> None:
    manifest = read_manifest(container)
    check_files(container, manifest)
    path = container / manifest.shards[2].file
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{path.name}: its SHA-256 is not the one in {MANIFEST}"):
        check_files(container, manifest)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: missing"):
        check_files(container, manifest)


def test_reading_does_not_keep_files_open(many: Path) -> None:
    reader = BlockReader(many)
    tensor = reader.get("model.norm.weight")
    reader.close()
    assert tensor.sum().isfinite()
    assert not reader._open
