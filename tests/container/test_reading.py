"""A running model's reader: the bytes that were written, or an error, never a dead process."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from bitstack import UserError, load, resize
from bitstack.container import checksums
from bitstack.container.manifest import MANIFEST, read_manifest
from bitstack.container.reading import BlockReader, open_container
from bitstack.container.shards import tensor_sum
from bitstack.original.hub_cache import Located
from damage import change_manifest, flip, header_of, make_pipe, without_checksums

Folder = Callable[..., Path]


@pytest.fixture
def container(stacked: Folder, tmp_path: Path) -> Path:
    """A copy of a container with chains and outliers, in two files."""
    made = stacked("llama-outliers", blocks=5)
    return shutil.copytree(made, tmp_path / "container")


def where(container: Path, part: str) -> tuple[Path, str, int, int]:
    """File, name, and first and last byte of the first stored tensor whose name ends so."""
    reader = BlockReader(container)
    name = next(name for name in reader.placed if name.endswith(part))
    path = container / reader.placed[name].shard.file
    start, header = header_of(path)
    first, end = header[name]["data_offsets"]
    return path, name, start + first, start + end - 1


def write_tensor(container: Path, part: str, tensor: torch.Tensor) -> str:
    """Puts other values into a stored tensor and renews its checksum; returns its name."""
    path, name, first, last = where(container, part)
    content = tensor.view(torch.uint8).numpy().tobytes()
    assert len(content) == last + 1 - first
    data = path.read_bytes()
    path.write_bytes(data[:first] + content + data[last + 1 :])
    names = list(read_manifest(container).stored)

    def renew(data: Any) -> None:
        at = names.index(name)
        for shard in data["shards"]:
            if at < len(shard["checksums"]):
                shard["checksums"][at] = checksums.of_bytes(content)
                return
            at -= len(shard["checksums"])

    change_manifest(container, renew)
    return name


def test_every_tensor_is_what_safetensors_reads(container: Path) -> None:
    reader = BlockReader(container)
    for name, placed in reader.placed.items():
        with safe_open(container / placed.shard.file, framework="pt") as file:
            expected = file.get_tensor(name)
        tensor = reader.get(name)
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
        assert torch.equal(tensor, expected)
        assert placed.checksum == tensor_sum(expected)


def test_tensors_outlive_their_file(container: Path) -> None:
    reader = BlockReader(container)
    path, name, _, _ = where(container, "plane_1")
    tensor = reader.get(name)
    kept = tensor.clone()
    path.write_bytes(b"")
    reader.close()
    assert torch.equal(tensor, kept)


def test_a_file_that_is_cut_while_it_is_open(container: Path) -> None:
    path, name, first, _ = where(container, "plane_1")
    reader = BlockReader(container)
    reader.get(name)
    with path.open("r+b") as file:
        file.truncate(first + 1)
    with pytest.raises(UserError, match=rf"cannot be read \(the file ends within {name}\); copy"):
        reader.get(name)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["plane_1", "fine_2", "scale_1", "norm.weight", "values"]), st.data())
def test_every_flipped_bit_is_found(
    stacked: Folder, tmp_path_factory: pytest.TempPathFactory, part: str, data: st.DataObject
) -> None:
    made = stacked("llama-outliers", blocks=5)
    container = shutil.copytree(made, tmp_path_factory.mktemp("flip") / "container")
    path, name, first, last = where(container, part)
    flip(path, data.draw(st.integers(first, last)), data.draw(st.integers(0, 7)))
    with pytest.raises(UserError, match=rf"{path.name}: cannot be read \({name} is not what was"):
        BlockReader(container).get(name)
    if part in ("plane_1", "fine_2"):  # whose values may be any
        assert BlockReader(container, verify=False).get(name) is not None


def test_who_does_not_want_to_verify(container: Path) -> None:
    path, _, first, _ = where(container, "fine_2")
    flip(path, first)
    with pytest.raises(UserError, match="is not what was written: its checksum is another"):
        load(container)
    model = load(container, verify=False)
    assert resize(model, level_one(container)) < resize(model)


def level_one(container: Path) -> int:
    return read_manifest(container).budgets.floor_bytes


def test_a_resize_verifies_too(container: Path) -> None:
    model = load(container, level=1)
    path, name, first, _ = where(container, "fine_2")
    flip(path, first)
    with pytest.raises(UserError, match=f"{name} is not what was written.*runs on as it was"):
        resize(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["scale_1", "outlier_values"])
def test_scales_are_finite(container: Path, part: str, value: float) -> None:
    """Also where the checksums say that they were written so."""
    tensor = BlockReader(container).get(where(container, part)[1])
    tensor[-1] = value
    name = write_tensor(container, part, tensor)
    with pytest.raises(UserError, match=f"{name} holds NaN or infinite numbers"):
        BlockReader(container).get(name)


@pytest.mark.parametrize("wrong", ["negative", "beyond", "falling", "twice"])
def test_outliers_stand_within_the_matrix(container: Path, wrong: str) -> None:
    name = where(container, "outlier_positions")[1]
    positions = BlockReader(container).get(name)
    spec = read_manifest(container).specs[name.rpartition(".")[0]]
    if wrong == "negative":
        positions[0] = -1
    elif wrong == "beyond":
        positions[-1] = spec.rows * spec.columns
    elif wrong == "falling":
        positions = positions.flip(0).contiguous()
    else:
        positions[1] = positions[0]
    write_tensor(container, "outlier_positions", positions)
    with pytest.raises(UserError, match=f"{name} does not rise within the matrix"):
        BlockReader(container).get(name)


def test_tensors_and_files_that_are_missing(container: Path) -> None:
    path, name, _, _ = where(container, "plane_1")
    reader = BlockReader(container)
    with pytest.raises(UserError, match="no tensor unknown"):
        reader.get("unknown")
    path.unlink()
    with pytest.raises(UserError, match="No such file"):
        reader.get(name)


def test_a_file_is_no_pipe_and_no_link(container: Path, tmp_path: Path) -> None:
    path = container / read_manifest(container).shards[0].file
    elsewhere = path.rename(tmp_path / "elsewhere.safetensors")
    path.symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"{path.name}: is a link that leads out of the folder"):
        load(container)
    path.unlink()
    elsewhere.rename(container / "other.bin")
    path.symlink_to("other.bin")
    assert load(container)
    path.unlink()
    make_pipe(path)
    with pytest.raises(UserError, match=f"{path.name}: is no regular file"):
        load(container)


def test_older_containers_ask_their_index(container: Path) -> None:
    expected = load(container).bitstack.manifest
    manifest = read_manifest(without_checksums(container))
    assert not manifest.has_checksums
    assert load(container).bitstack.resident_bytes == expected.budgets.total_bytes


def test_closing(container: Path) -> None:
    name = where(container, "norm.weight")[1]
    reader = BlockReader(container)
    value = reader.get(name)
    (opened,) = reader._open.values()
    reader.close()
    assert opened.file.closed
    assert not reader._open
    assert torch.equal(reader.get(name), value)  # and open again


def test_an_open_container(container: Path) -> None:
    manifest = read_manifest(container)
    opened, levels, reader = open_container(Located(container), None, 1)
    assert opened == manifest
    assert levels == [1] * len(manifest.stacks)
    other = BlockReader(container)
    for name in manifest.tensors(levels):
        assert torch.equal(reader.get(name), other.get(name))


def test_a_shard_of_another_container_of_the_same_shapes(
    container: Path, stacked: Folder, pico_model: Folder, run: Folder
) -> None:
    fields = {"num_samples": 4, "seq_len": 32, "order": "predicted", "search_sweeps": 0}
    quick = {"joint_passes": 0, "tune_steps": 0, "blocks": 2}
    one, two = (
        run(pico_model("llama-tied", seed=seed), f"{seed}", **fields | quick) for seed in (0, 1)
    )
    first = read_manifest(one).shards[0]
    assert first.bytes == read_manifest(two).shards[0].bytes
    shutil.copyfile(two / first.file, one / first.file)
    with pytest.raises(UserError, match=f"{first.file}: cannot be read"):
        load(one)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the header of a file, which keeps its size where the new one is no longer."""
    data = path.read_bytes()
    start, header = header_of(path)
    made = change(header)
    text = json.dumps(header if made is None else made, separators=(",", ":")).encode()
    text = text.ljust(start - 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[start:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, n: h[n].update(dtype="I8"), "must be .* of uint8"),
        (lambda h, n: h[n].update(dtype="X8"), "its dtype, shape or data_offsets is none"),
        (lambda h, n: h[n].update(shape=[-1]), "its dtype, shape or data_offsets is none"),
        (lambda h, n: h[n].update(shape=[1, 2]), "must be"),
        (lambda h, n: h[n].update(data_offsets=[0]), "its dtype, shape or data_offsets is none"),
        (lambda h, n: h[n].update(data_offsets=[0, True]), "its dtype, shape or data_offsets is"),
        (lambda h, n: h[n].update(data_offsets=[0, 1]), "which is not"),
        (lambda h, n: h.update({n: []}), "its entry is not dtype, shape and data_offsets"),
        (lambda h, n: h.pop(n) and None, "its header lacks"),
        (lambda h, n: h.update(x=h[n]), "its header names x"),
        (lambda h, n: [], "its header is no object"),
    ],
)
def test_damaged_headers(container: Path, change: Any, message: str) -> None:
    path, name, _, _ = where(container, "plane_1")
    rewrite_header(path, lambda header: change(header, name))
    with pytest.raises(UserError, match=message) as error:
        BlockReader(container).get(name)
    assert str(error.value).startswith(f"{path}: cannot be read (")
    assert "\n" not in str(error.value)


def test_gaps_and_overlaps(container: Path) -> None:
    path, name, _, _ = where(container, "plane_1")

    def moved(header: dict[str, Any]) -> None:
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin + 1, end + 1]

    rewrite_header(path, moved)
    with pytest.raises(UserError, match=r"begins at byte \d+ of the data, not at \d+"):
        BlockReader(container).get(name)


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, struct.pack("<Q", 2) + b"[]", b"\5" * 9])
def test_files_that_are_none(container: Path, content: bytes) -> None:
    path, name, _, _ = where(container, "plane_1")
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name}: cannot be read \("):
        BlockReader(container).get(name)
    assert (container / MANIFEST).exists()
