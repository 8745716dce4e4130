"""The dense folder is what the packed model computes, named as the original was, or not there."""

import json
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import pico
from bitstack import UserError, export, load
from bitstack.cli import app
from bitstack.container.reading import BlockReader
from bitstack.kernels import set_accuracy
from bitstack.nn.experts import PackedExperts

Folder = Callable[..., Path]
MODULE = import_module("bitstack.live.dense_export")  # the name itself is the function


@pytest.fixture(autouse=True, scope="module")
def _exact() -> Iterator[None]:
    before = set_accuracy("exact")
    yield
    set_accuracy(before)


@pytest.fixture(scope="session")
def free(stacked: Folder) -> Folder:
    return lambda name: stacked(name, calibration="none")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(torch.tensor([pico.tokenizer()(pico.TEXT[:200])["input_ids"][:40]])).logits.float()


def names(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name, dtype and shape of every stored tensor."""
    tensors = {}
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(key)
                tensors[key] = part.get_dtype(), tuple(part.get_shape())
    return tensors


@pytest.mark.parametrize("name", pico.FAMILIES)
def test_it_is_the_packed_model(
    pico_model: Folder, free: Folder, tmp_path: Path, name: str
) -> None:
    """In fp32 nothing is rounded: the same logits, and the same text by beams and by sampling."""
    folder = export(free(name), tmp_path / "dense", "5bpw")
    packed, dense = load(free(name), "5bpw"), AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(dense), logits(packed), rtol=1e-4, atol=1e-4)
    assert names(folder) == names(pico_model(name))
    assert not hasattr(dense.config, "quantization_config")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [type(dense).__name__]
    assert AutoTokenizer.from_pretrained(folder)("boats") == pico.tokenizer()("boats")
    ids = torch.tensor([[5, 9, 80, 7]])
    for ways in ({"num_beams": 3}, {"do_sample": True}):
        texts = []
        for model in (packed, dense):
            torch.manual_seed(0)
            texts.append(model.generate(ids, max_new_tokens=6, **ways))
        assert torch.equal(*texts)


def test_dtype_of_the_original_and_many_files(
    stacked: Folder, pico_model: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = stacked("mixtral", dtype=torch.bfloat16, blocks=3)
    monkeypatch.setattr(MODULE, "FILE_BYTES", 1 << 13)
    folder = export(container, tmp_path / "dense", level=2)
    files = sorted(folder.glob("model*.safetensors"))
    assert len(files) > 5
    assert {len(list(safe_open(f, framework="pt").keys())) > 0 for f in files} == {True}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(names(folder))
    assert names(folder) == names(pico_model("mixtral", dtype=torch.bfloat16))
    dense = AutoModelForCausalLM.from_pretrained(folder)
    assert dense.dtype == torch.bfloat16
    # Weights, not logits: in bf16 a token may take another expert, and all after it differ then.
    packed = load(container, level=2)
    for name, parameter in dense.named_parameters():
        owner, _, attribute = name.rpartition(".")
        value = getattr(packed.get_submodule(owner), attribute)
        if isinstance(value, PackedExperts):
            value = torch.stack([value[expert] for expert in range(len(value))])
        torch.testing.assert_close(torch.as_tensor(value), parameter.data, rtol=8e-3, atol=1e-6)


def test_an_interrupted_export_leaves_nothing(
    free: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, read = BlockReader.get, []

    def breaks(self: BlockReader, name: str) -> torch.Tensor:
        read.append(name)
        if len(read) > 20:
            raise KeyboardInterrupt
        return get(self, name)

    monkeypatch.setattr("bitstack.container.reading.BlockReader.get", breaks)
    with pytest.raises(KeyboardInterrupt):
        export(free("llama-tied"), tmp_path / "dense")
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_there_stays(free: Folder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--output .*: is not empty; name a new folder"):
        export(free("llama-tied"), tmp_path)
    (tmp_path / "empty").mkdir()
    assert (export(free("llama-tied"), tmp_path / "empty") / "config.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "notes.txt"]


def test_too_little_disk(free: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"the dense model takes .* KiB, but 1000 B of disk"):
        export(free("llama-tied"), tmp_path / "dense")
    assert list(tmp_path.iterdir()) == []


def test_the_command(free: Folder, tmp_path: Path) -> None:
    run = CliRunner().invoke
    given = ["export", str(free("llama-tied")), "--output", str(tmp_path / "dense")]
    done = run(app, [*given, "--budget", "5bpw"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().endswith("of dense weights")
    done = run(app, given)
    assert done.exit_code == 2
    assert "is not empty" in done.stderr
