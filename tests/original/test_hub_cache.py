"""Containers and models named on the Hub, through the real client and a server on this machine."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

import bitstack
import pico
from bitstack.cli import app
from bitstack.container.manifest import MANIFEST, Manifest, read_manifest
from bitstack.container.planning import plan
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.original.hub_cache import locate, name_in_cache
from bitstack.original.source import open_source
from hub_server import READER, HubServer

NAME = "someone/pico-stacked"
IDS = torch.arange(1, 9)[None]


@pytest.fixture(scope="module")
def container(stacked: Callable[..., Path]) -> Path:
    return stacked("llama-gqa", blocks=4, shard_size="4kB")


@pytest.fixture(scope="module")
def manifest(container: Path) -> Manifest:
    return read_manifest(container)


@pytest.fixture
def served(hub: HubServer, container: Path) -> HubServer:
    hub.add(NAME, container)
    return hub


def shards_of(container: Path, manifest: Manifest, budget: int) -> list[str]:
    """Files that hold what a budget needs, sorted."""
    levels, _ = manifest.budgets.levels(budget)
    where = {name: one.shard.file for name, one in BlockReader(container).placed.items()}
    return sorted({where[name] for name in manifest.tensors(levels)})


def shards(fetched: list[str]) -> list[str]:
    return [file for file in fetched if file.endswith(".safetensors")]


def unplug(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hub can be reached any more."""
    nobody = "http://127.0.0.1:9"
    template = nobody + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def fails(*args: str) -> str:
    """The one line on stderr of a command that must refuse its input."""
    result = CliRunner().invoke(app, args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    return line


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(one(IDS).logits, other(IDS).logits)


def test_only_the_shards_of_the_prefix_and_later_only_the_rest(
    served: HubServer, container: Path, manifest: Manifest
) -> None:
    budgets = manifest.budgets
    middle = (budgets.floor_bytes + budgets.total_bytes) // 2
    few, more = (shards_of(container, manifest, b) for b in (budgets.floor_bytes, middle))
    everything = sorted(shard.file for shard in manifest.shards)
    assert 1 < len(few) < len(more) < len(everything)

    model = bitstack.load(NAME, budgets.floor_bytes)
    fetched = served.fetched()
    assert shards(fetched) == few
    assert not {"README.md", ".gitattributes"} & set(fetched)
    assert same(model, bitstack.load(container, budgets.floor_bytes))

    model = bitstack.load(NAME, middle)
    assert served.fetched() == sorted(set(more) - set(few))
    assert same(model, bitstack.load(container, middle))

    assert bitstack.resize(model, budgets.floor_bytes) == budgets.floor_bytes
    assert bitstack.resize(model, middle) == budgets.levels(middle)[1]
    assert served.fetched() == []
    assert bitstack.resize(model) == budgets.total_bytes
    assert served.fetched() == sorted(set(everything) - set(more))
    assert same(model, bitstack.load(container))


def test_the_floor_has_shards_of_its_own(container: Path, manifest: Manifest) -> None:
    """Or the least model would download blocks it does not hold."""
    floor = [1] * len(manifest.stacks)
    names = set(manifest.tensors(floor))
    where = {name: one.shard.file for name, one in BlockReader(container).placed.items()}
    files = {where[name] for name in names}
    held = {name for name, file in where.items() if file in files}
    assert held - {manifest.guard} == names


def test_a_default_container_is_cut_for_prefixes(stacked: Callable[..., Path]) -> None:
    sizes = [shard.bytes for shard in read_manifest(stacked("llama-gqa", blocks=2)).shards]
    assert len(sizes) == 2  # a pico container: the floor, and under a MiB above it


def test_a_live_model_stays_with_its_commit(
    served: HubServer, container: Path, stacked: Callable[..., Path], manifest: Manifest
) -> None:
    model = bitstack.load(NAME, manifest.budgets.floor_bytes)
    served.add(NAME, stacked("qwen3", blocks=4))
    assert bitstack.resize(model) == manifest.budgets.total_bytes
    assert same(model, bitstack.load(container))
    assert bitstack.load(NAME).config.model_type == "qwen3"


def test_a_revision(served: HubServer, container: Path, stacked: Callable[..., Path]) -> None:
    old = served.repos[NAME].head
    served.add(NAME, stacked("qwen3", blocks=4))
    assert bitstack.load(NAME, revision=old).config.model_type == "llama"
    assert plan(f"{NAME}@{old}")[-1].resident_bytes == plan(container)[-1].resident_bytes
    with pytest.raises(UserError, match="not this revision"):
        bitstack.load(NAME, revision="no-such-branch")
    with pytest.raises(UserError, match="is a folder"):
        bitstack.load(container, revision="main")


def test_a_token(served: HubServer, monkeypatch: pytest.MonkeyPatch, manifest: Manifest) -> None:
    served.repos[NAME].private = True
    with pytest.raises(UserError, match="hf auth login"):
        bitstack.load(NAME)
    with pytest.raises(UserError, match="the token is not valid"):
        bitstack.load(NAME, token="hf_forged")
    model = bitstack.load(NAME, manifest.budgets.floor_bytes, token=READER)
    bitstack.resize(model)  # with the same token
    assert READER not in repr(model.bitstack)
    shutil.rmtree(constants.HF_HUB_CACHE)
    monkeypatch.setenv("HF_TOKEN", READER)
    assert bitstack.load(NAME).bitstack.resident_bytes == manifest.budgets.total_bytes


def test_a_broken_download_goes_on_where_it_stopped(
    served: HubServer, container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = read_manifest(container).shards[0].file
    served.cut[shard] = 1000
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert same(bitstack.load(NAME), bitstack.load(container))
    assert [r.start for r in served.log if r.file == shard and r.method == "GET"] == [0, 1000]


def test_without_network_the_cache_serves_what_it_has(
    served: HubServer, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor = manifest.budgets.floor_bytes
    model = bitstack.load(NAME, floor)
    unplug(monkeypatch)
    assert bitstack.load(NAME, floor).bitstack.resident_bytes == floor
    with pytest.raises(UserError, match="cannot be reached"):
        bitstack.load(NAME)
    with pytest.raises(UserError, match=r"cannot be reached.*runs on as it was"):
        bitstack.resize(model)
    assert model.bitstack.resident_bytes == floor
    with pytest.raises(UserError, match=r"no such folder.*cannot be reached"):
        bitstack.load("someone/else")


def test_plan_reads_no_weights(served: HubServer, container: Path) -> None:
    assert plan(NAME, "100%") == plan(container, "100%")
    assert shards(served.fetched()) == []


def test_a_newer_container_is_refused_before_its_weights(
    hub: HubServer, container: Path, tmp_path: Path
) -> None:
    newer = shutil.copytree(container, tmp_path / "newer")
    data = json.loads((newer / MANIFEST).read_text())
    (newer / MANIFEST).write_text(json.dumps(data | {"format": 99}))
    hub.add(NAME, newer)
    with pytest.raises(UserError, match="made by a newer bitstack"):
        bitstack.load(NAME)
    assert shards(hub.fetched()) == []


def test_a_half_pushed_container(hub: HubServer, container: Path, tmp_path: Path) -> None:
    half = shutil.copytree(container, tmp_path / "half")
    last = read_manifest(half).shards[-1].file
    (half / last).unlink()
    hub.add(NAME, half)
    with pytest.raises(UserError, match=f"{last}: missing"):
        bitstack.load(NAME)


def test_an_original_model(hub: HubServer, pico_model: Callable[..., Path]) -> None:
    folder = pico_model("llama-gqa")
    hub.add("someone/pico", folder)
    source = open_source("someone/pico")
    assert source.name == "someone/pico"
    opened = open_model("someone/pico")
    assert same(opened.model, open_model(folder).model)
    assert hub.fetched().count("model.safetensors") == 1


def test_the_container_knows_its_base_model(
    hub: HubServer, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    hub.add("someone/pico", pico_model("llama-gqa"))
    quick: dict[str, Any] = {"recipe": "fast", "blocks": 1, "calibration": "none"}
    container = bitstack.compress("someone/pico", tmp_path / "c", **quick)
    assert read_manifest(container).base_model == "someone/pico"


def test_the_name_survives_a_path_into_the_cache(
    hub: HubServer, pico_model: Callable[..., Path]
) -> None:
    hub.add("someone/pico-1.5", pico_model("llama-gqa"))
    folder = open_source("someone/pico-1.5").path
    assert open_source(folder).name == "someone/pico-1.5"
    assert open_source(str(folder)).name == "someone/pico-1.5"
    assert name_in_cache(pico_model("llama-gqa")) is None


def test_templates_and_terms_come_along_from_the_hub(
    hub: HubServer, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = shutil.copytree(pico_model("llama-gqa"), tmp_path / "m")
    files = ["additional_chat_templates/rag.jinja", "NOTICE", "USE_POLICY.md", "target.spm"]
    for name in [*files, "onnx/config.json", "private.bin"]:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(name)
    hub.add("someone/pico", model)
    quick: dict[str, Any] = {"recipe": "fast", "blocks": 1, "calibration": "none"}
    container = bitstack.compress("someone/pico", tmp_path / "c", **quick)
    fetched = hub.fetched()
    assert set(files) <= set(fetched)
    assert not {"onnx/config.json", "private.bin"} & set(fetched)
    dense = bitstack.export(container, tmp_path / "dense")
    for name in files:
        assert (container / name).read_text() == (dense / name).read_text() == name


def test_a_container_is_no_model_to_compress(served: HubServer) -> None:
    with pytest.raises(UserError, match="already quantised"):
        open_source(NAME)
    assert shards(served.fetched()) == []


def test_what_is_no_name_is_a_folder(hub: HubServer, tmp_path: Path) -> None:
    for path in ("./a/b", "/a/b", "a", "a/b/c", "../a", "~/a"):
        assert locate(path).remote is None
    assert hub.log == []


# the commands


def test_one_clear_line(served: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = fails("plan", "someone/nothing")
    assert missing.startswith("error: someone/nothing: no such folder, and the Hub did not give it")
    assert "check the name" in missing
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "check the name" in fails("generate", "someone/nothing", "--prompt", "a")
    assert "not this revision" in fails("plan", f"{NAME}@v9")
    monkeypatch.setenv("HF_TOKEN", "hf_forged")
    assert "the token is not valid" in fails("plan", NAME)
    unplug(monkeypatch)
    assert "cannot be reached" in fails("plan", NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in fails("plan", NAME)


def test_a_command_with_the_documented_environment(
    served: HubServer, container: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """In a process of its own, on a private container."""
    served.repos[NAME].private = True
    text = tmp_path / "text.txt"
    text.write_text(pico.TEXT)
    budget = manifest.budgets.floor_bytes
    command = ["eval", NAME, "--budget", budget, "--text", text, "--window", 32, "--json", "-"]
    names = {
        "HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": READER,
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*",
    }  # fmt: skip
    dropped = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    result = subprocess.run(
        [sys.executable, "-m", "bitstack.cli", *map(str, command)],
        capture_output=True, text=True, timeout=120, env=kept | names,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    record = json.loads(result.stdout)
    assert (record["model"], record["resident_bytes"]) == (NAME, budget)
    assert shards(served.fetched()) == shards_of(container, manifest, budget)
