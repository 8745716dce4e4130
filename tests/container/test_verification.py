"""`bitstack.verify`: every fault by its file and tensor, and none in a whole container.

Also covers `commands.verify`, `container.checksums`, `container.placement` and
`container.shard_header`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import call

import bitstack
from bitstack import UserError
from bitstack.container import checksums
from bitstack.container.manifest import INDEX, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.container.shards import tensor_sum
from damage import change_manifest, copied, flip, without_checksums
from hub_server import HubServer

Folder = Callable[..., Path]


@pytest.fixture
def container(stacked: Folder, tmp_path: Path) -> Path:
    return copied(stacked("llama-gqa", blocks=2), tmp_path)


def faults(container: Path) -> list[tuple[str, str | None]]:
    return [(fault.file, fault.tensor) for fault in bitstack.verify(container).faults]


def test_known_checksums() -> None:
    """Of XXH3's own test vectors: the empty input, with seed 0."""
    assert checksums.of_bytes(b"") == "2d06800538d394c2"
    assert tensor_sum(torch.zeros(0, 4)) == checksums.of_bytes(b"")
    numbers = torch.tensor([[1, 2], [3, 4]], dtype=torch.int16)
    assert tensor_sum(numbers.T) == checksums.of_bytes(bytes([1, 0, 3, 0, 2, 0, 4, 0]))
    assert tensor_sum(torch.tensor(True)) == checksums.of_bytes(b"\1")
    assert checksums.of_json({"b": 1, "a": [2]}) == checksums.of_bytes(b'{"a":[2],"b":1}')


def test_a_whole_container(container: Path) -> None:
    verified = bitstack.verify(container)
    manifest = read_manifest(container)
    assert verified.faults == []
    assert verified.tensors == len(manifest.stored)
    assert verified.bytes == sum(shard.bytes for shard in manifest.shards)
    assert verified.checksums
    assert faults(without_checksums(container)) == []
    assert not bitstack.verify(container).checksums


def test_every_fault_is_named(container: Path) -> None:
    reader = BlockReader(container)
    small = min(reader.placed, key=lambda name: name.endswith("scale_1"))
    names = [name for name in reader.placed if name.endswith(("plane_1", "norm.weight"))][:2]
    wanted = set()
    for name in names:
        shard = reader.placed[name].shard.file
        reader.get(name)
        place = reader._open[container / shard].places[name]
        flip(container / shard, place.start)
        wanted.add((shard, name))
    flip(container / "tokenizer.json", 3)
    (container / "model.bitstack-99999-of-99999.safetensors").write_bytes(b"")
    index = json.loads((container / INDEX).read_text())
    index["weight_map"] |= {small: "other", "stray": "other"}
    (container / INDEX).write_text(json.dumps(index))
    wanted |= {("tokenizer.json", None), (INDEX, small), (INDEX, "stray")}
    wanted |= {("model.bitstack-99999-of-99999.safetensors", None)}
    assert set(faults(container)) == wanted


@pytest.mark.parametrize("cut", [0, 5, 500])
def test_files_that_are_cut(container: Path, cut: int) -> None:
    last = container / read_manifest(container).shards[-1].file
    last.write_bytes(last.read_bytes()[:cut])
    assert faults(container) == [(last.name, None)]
    last.unlink()
    assert faults(container) == [(last.name, None)]


def test_a_damaged_manifest(container: Path, tmp_path: Path) -> None:
    change_manifest(container, lambda data: data.update(dtype="none"))
    (fault,) = bitstack.verify(container).faults
    assert (fault.file, fault.tensor) == ("bitstack.json", None)
    with pytest.raises(UserError, match="no such folder"):
        bitstack.verify(tmp_path / "none")
    with pytest.raises(UserError, match="not a finished bitstack container"):
        bitstack.verify(tmp_path)


def test_only_the_sha256_knows(container: Path) -> None:
    """Bytes that no tensor has: white space of a header, in a container that was written anew."""
    path = container / read_manifest(container).shards[0].file
    data = path.read_bytes()
    at = data.index(b'"__metadata__"')
    path.write_bytes(data[:at] + data[at:].replace(b'"pt"', b'"PT"', 1))
    assert faults(container) == [(path.name, None)]


def test_the_command(container: Path, tmp_path: Path) -> None:
    done = call("verify", container, "--json", tmp_path / "verified.json")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("no fault found\n")
    assert json.loads((tmp_path / "verified.json").read_text())["faults"] == []
    flip(container / "config.json", 20)
    done = call("verify", container)
    assert done.exit_code == 2
    assert done.stdout.startswith("config.json: ")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {container}: ")


def test_a_container_on_the_hub(hub: HubServer, container: Path) -> None:
    hub.add("someone/pico", container)
    assert faults(Path("someone/pico")) == []
