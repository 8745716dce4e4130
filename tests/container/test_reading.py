"""A running model's reader: the bytes that were written, or an error, never a dead process."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitstack.container.manifest import read_manifest
from bitstack.container.reading import _DTYPES, BlockReader, open_container
from bitstack.container.shards import INDEX, ShardReader, write_index
from bitstack.errors import UserError
from bitstack.original.hub_cache import Located

FILE = "model.safetensors"
WHOLE = torch.arange(300_000, dtype=torch.int32).view(3, -1)  # more than a page of its own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tensor of every dtype in one file, with its index."""
    tensors = {name: torch.tensor([[0, 1, 1], [1, 0, 1]]).to(d) for name, d in _DTYPES.items()}
    tensors |= {"whole": WHOLE, "none": torch.zeros(0, 4), "scalar": torch.tensor(2.5)}
    save_file(tensors, tmp_path / FILE)
    write_index(tmp_path / INDEX, 0, dict.fromkeys([*tensors, "lost"], FILE))
    return tmp_path


def test_every_tensor_is_what_safetensors_reads(folder: Path) -> None:
    own, other = BlockReader(folder), ShardReader(folder)
    for name in (*_DTYPES, "whole", "none", "scalar"):
        tensor, expected = own.get(name), other.get(name)
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
        assert torch.equal(tensor, expected)


def test_tensors_outlive_their_file(folder: Path) -> None:
    reader = BlockReader(folder)
    tensor = reader.get("whole")
    (folder / FILE).write_bytes(b"")
    reader.close()
    assert torch.equal(tensor, WHOLE)


def test_a_file_that_is_cut_while_it_is_open(folder: Path) -> None:
    reader = BlockReader(folder)
    reader.get("scalar")
    path = folder / FILE
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"cannot be read \(the file ends within whole\); copy"):
        reader.get("whole")


def broken(folder: Path, content: bytes) -> str:
    (folder / FILE).write_bytes(content)
    with pytest.raises(UserError, match=rf"{FILE}: cannot be read \(") as error:
        BlockReader(folder).get("whole")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_damaged_headers(folder: Path) -> None:
    def with_header(entry: object) -> bytes:
        text = json.dumps({"whole": entry}).encode()
        return struct.pack("<Q", len(text)) + text + bytes(100)

    good = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    (folder / FILE).write_bytes(with_header(good))
    assert BlockReader(folder).get("whole").tolist() == [0, 0, 0, 0]
    assert "ends within the header" in broken(folder, with_header(good)[:20])
    assert "no safetensors header" in broken(folder, b"\xff" * 50)
    assert "which is not [5] of torch.uint8" in broken(folder, with_header(good | {"shape": [5]}))
    for wrong in (good | {"dtype": "X8"}, good | {"data_offsets": [0]}, None, []):
        broken(folder, with_header(wrong))
    broken(folder, struct.pack("<Q", 2) + b"[]")
    broken(folder, b"")


def test_tensors_and_files_that_are_missing(folder: Path) -> None:
    reader = BlockReader(folder)
    with pytest.raises(UserError, match="no tensor unknown"):
        reader.get("unknown")
    with pytest.raises(UserError, match=r"cannot be read \('lost'\)"):
        reader.get("lost")  # the index names it, the file does not
    (folder / FILE).unlink()
    with pytest.raises(UserError, match="No such file"):
        BlockReader(folder).get("whole")


def test_closing(folder: Path) -> None:
    reader = BlockReader(folder)
    reader.get("scalar")
    ((file, _, _),) = reader._open.values()
    reader.close()
    assert file.closed
    assert reader.get("scalar").item() == 2.5  # and open again


def test_an_open_container(stacked: Callable[..., Path]) -> None:
    container = stacked("llama-tied", blocks=2)
    manifest = read_manifest(container)
    opened, levels, reader = open_container(Located(container), None, 1)
    assert opened == manifest
    assert levels == [1] * len(manifest.stacks)
    other = ShardReader(container)
    for name in manifest.tensors(levels):
        assert torch.equal(reader.get(name), other.get(name))
