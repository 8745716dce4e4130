"""Pushing a container: the real client against a server on this machine.

Also covers `hub.base_model`.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, constants

import bitstack
from bitstack.container.manifest import MANIFEST, read_manifest
from bitstack.hub.card import CARD
from hub_push import NAME, call, fails, push, shard_files
from hub_server import READER, HubServer


def test_what_is_pushed_loads_again(writer: HubServer, container: Path) -> None:
    for private in ("notes.md", "private-notes.txt", "report.json", "report.md", "own.yaml"):
        (container / private).write_text("private")
    for beside in (
        "NOTICE",
        "USE_POLICY.md",
        "additional_chat_templates/rag.jinja",
        "spiece.model",
    ):
        (container / beside).parent.mkdir(exist_ok=True)
        (container / beside).write_text("public")
    (container / ".work").mkdir()
    (container / "tokenizer").mkdir()
    (container / "tokenizer" / "private.json").write_text("{}")
    pushed = push(container, NAME, "--license", "mit")
    repo = writer.repos[NAME]
    assert len(repo.commits) == 2  # the Hub's own first one, and all of the container at once
    assert pushed["commit"] == repo.head
    assert set(repo.files) == set(pushed["files"]) | {".gitattributes"}
    own = {"config.json", MANIFEST, "recipe.yaml", "README.md", "tokenizer.json", "NOTICE"}
    assert own | {"USE_POLICY.md", "additional_chat_templates/rag.jinja"} <= set(repo.files)
    assert not [file for file in repo.files if "private" in file or "report" in file]
    assert not {"notes.md", "own.yaml"} & set(repo.files)
    assert not repo.private
    for file, size in pushed["files"].items():
        assert writer.content(repo, file) == (container / file).read_bytes()
        assert len(writer.content(repo, file)) == size
    budget = read_manifest(container).budgets.total_bytes - 1
    there, here = bitstack.load(NAME, budget), bitstack.load(container, budget)
    assert there.bitstack.levels == here.bitstack.levels


def test_private(writer: HubServer, container: Path) -> None:
    push(container, NAME, "--private", "--license", "mit")
    assert writer.repos[NAME].private
    push(container, NAME, "--private", "--license", "mit")
    writer.repos[NAME].private = False
    assert "is on the Hub and public" in fails("push", container, NAME, "--private", "--quiet")


def test_a_push_again_sends_nothing_twice(writer: HubServer, container: Path) -> None:
    push(container, NAME, "--license", "mit")
    head = writer.repos[NAME].head
    writer.log.clear()
    assert push(container, NAME, "--license", "mit")["commit"] == head
    assert [r for r in writer.log if r.method == "PUT"] == []


def test_a_broken_push_goes_on_where_it_stopped(
    writer: HubServer, container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    files = shard_files(read_manifest(container))
    assert len(files) > 4
    writer.uploads_left = 3
    line = fails("push", container, NAME, "--license", "mit", "--quiet")
    assert line.startswith(f"error: {NAME}: cannot be pushed: ")
    assert "call again" in line
    assert set(writer.repos[NAME].files) == {".gitattributes"}  # nothing that looks whole
    assert len(writer.large) == 3
    writer.uploads_left = None
    writer.log.clear()
    push(container, NAME, "--license", "mit")
    sent = [r.path for r in writer.log if r.method == "PUT"]
    assert len(sent) == len(set(sent)) == len(files) - 3
    assert bitstack.load(NAME).bitstack.levels == bitstack.load(container).bitstack.levels


def test_another_container_replaces_the_first_in_one_commit(
    writer: HubServer, container: Path, stacked: Callable[..., Path]
) -> None:
    push(container, NAME, "--license", "mit")
    first = writer.repos[NAME].head
    other = stacked("qwen3", blocks=4)
    manifest = read_manifest(other)
    pushed = push(shutil.copytree(other, container.parent / "other"), NAME, "--license", "mit")
    gone = set(shard_files(read_manifest(container))) - set(shard_files(manifest))
    assert set(pushed["removed"]) == gone
    assert gone
    assert not gone & set(writer.repos[NAME].files)
    assert len(writer.repos[NAME].commits) == 3
    assert bitstack.load(NAME).config.model_type == "qwen3"
    assert bitstack.load(NAME, revision=first).config.model_type == "llama"


def test_a_dry_run_sends_nothing(hub: HubServer, container: Path) -> None:
    result = call("push", container, NAME, "--dry-run", "--license", "mit")
    assert result.exit_code == 0, result.output
    assert hub.log == []
    manifest = read_manifest(container)
    for shard in manifest.shards:
        assert f"{shard.bytes}  {shard.file}" in result.stdout
    assert "nothing was sent" in result.stdout
    assert (container / CARD).is_file()


def test_no_path_of_the_disk_is_stored_or_pushed(
    hub: HubServer, run: Callable[..., Path], pico_model: Callable[..., Path], text: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Of the model, the text, or the container, in any file, at any depth."""
    secret = tmp_path / "home-of-somebody"
    model = shutil.copytree(pico_model("llama-gqa"), secret / "model")
    config = json.loads((model / "config.json").read_text())
    config["_name_or_path"] = str(model)
    (model / "config.json").write_text(json.dumps(config))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings |= {"name_or_path": str(model), "special_tokens_map_file": str(model / "map.json")}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    held_out = shutil.copy(text, secret / "held-out.txt")
    fields = {"blocks": 2, "search_sweeps": 0, "joint_passes": 0, "tune_steps": 0}
    few = {"num_samples": 4, "seq_len": 32, "order": "predicted", "calibration": str(held_out)}
    made = run(model, "container", **fields, **few)
    options = ["--text", held_out, "--window", 32, "--original", model, "--budget", "100%"]
    push(made, NAME, "--dry-run", "--license", "mit", *options)
    bitstack.load(made).save_pretrained(tmp_path / "saved")
    bitstack.export(made, tmp_path / "dense", budget="100%")
    for folder in (made, tmp_path / "saved", tmp_path / "dense"):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert len(files) > 4
        for file in files:
            assert str(tmp_path).encode() not in file.read_bytes(), file
            assert secret.name.encode() not in file.read_bytes(), file


def test_bad_input(
    hub: HubServer, container: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["push", container, NAME, "--license", "mit"]
    assert "no token for the Hub; log in with `hf auth login`" in fails(*args)
    monkeypatch.setenv("HF_TOKEN", "hf_forged")
    assert "the token is not valid" in fails(*args)
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "the token has no right to do this (You don't have" in fails(*args)
    assert hub.repos == {}
    assert "give owner/name" in fails("push", container, "no-owner", "--dry-run")
    assert "--text" in fails(*args, "--original", "someone/pico")
    assert "is not understood" in fails(*args, "--dry-run", "--budgets", "60%,much")
    assert "below the floor" in fails(*args, "--dry-run", "--budgets", "1%")
    assert "no such folder" in fails("push", container / "no", NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert HfApi().endpoint == "http://127.0.0.1:9"
    assert "cannot be reached" in fails(*args)
    assert not (container / CARD).exists()


def test_a_broken_container_is_not_pushed(writer: HubServer, container: Path) -> None:
    shard = container / read_manifest(container).shards[1].file
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert f"{shard.name}: " in fails("push", container, NAME, "--dry-run")
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "SHA-256" in fails("push", container, NAME)
    shard.unlink()
    assert "missing" in fails("push", container, NAME)
    (container / MANIFEST).unlink()
    assert "not a finished" in fails("push", container, NAME)
    assert writer.large == {}


def test_an_unknown_license_is_left_out(
    hub: HubServer, container: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = call("push", container, NAME, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "name it with --license" in caplog.text
    assert "name it with --base-model OWNER/NAME" in caplog.text
    assert "license" not in ModelCard.load(container / CARD).data.to_dict()
